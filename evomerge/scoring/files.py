"""The files that a fitness is made of: task YAMLs and their data, scorers and what they name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from evomerge.plugins.user_code import code_files
from evomerge.scoring.fitness import Fitness

# Data that a scorer may read; what it names besides may be a file that it writes, such as a log.
_DATA = {
    *(".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".xml", ".npy", ".npz", ".parquet"),
    *(".arrow", ".safetensors", ".pt", ".pth", ".pkl", ".gz", ".zip", ".zst"),
}
_LONGEST = 255  # of a text that may be a path; prompts are longer
_FOLDERS = ("dataset_path", "data_dir", "data_files")  # keys of a task that may name a folder


def fitness_files(fitness: Fitness) -> list[Path]:
    """Every file that its scores may depend on, sorted; of hub datasets none.

    They are the files in its ``include_path`` and those that a task's YAML names, its scorers with
    what these import from their folders, and data that a scorer's options or a text in its code
    name.

    Raises:
        ConfigError: a scorer's file that is not there.
    """
    found: set[Path] = set()
    for task in fitness.scorers.values():
        code = code_files(str(task.scorer))
        found.update(code)
        data = list(_named(task.options, code[0].parent))
        for file in code:
            data += _named(_texts(file), file.parent)
        found.update(file for file in data if file.suffix in _DATA)
    if fitness.include_path is not None:
        folder = Path(fitness.include_path)
        found.update(_within(folder))
        for file in sorted(file for file in found if file.suffix in {".yaml", ".yml"}):
            found.update(_of_task(file))
    return sorted(found)


def _of_task(file: Path, seen: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """The files that a task's YAML names, and those that the files that it includes name."""
    content = _content(file)
    if file in seen or not isinstance(content, dict):
        return
    for named in _named(content, file.parent):
        yield named
        if named.suffix in {".yaml", ".yml"}:
            yield from _of_task(named, seen | {file})
    whole = [content, content.get("dataset_kwargs")]
    for key in _FOLDERS:
        for part in whole:
            value = part.get(key) if isinstance(part, dict) else None
            for folder in _places(value, file.parent) if isinstance(value, str) else ():
                if folder.is_dir():
                    yield from _within(folder)


def _within(folder: Path) -> Iterator[Path]:
    """All files in a folder but hidden ones, compiled code and texts about it."""
    for file in folder.rglob("*"):
        parts = file.relative_to(folder).parts
        about = file.suffix in {".pyc", ".md"} or any(part.startswith(".") for part in parts)
        if not about and file.is_file():
            yield file.resolve()


def _named(value: Any, folder: Path) -> Iterator[Path]:
    """The files that texts within a value name, seen from a folder or the working directory."""
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _named(item, folder)
    elif isinstance(value, str) and "\n" not in value and 0 < len(value) <= _LONGEST:
        yield from (path for path in _places(value, folder) if path.is_file())


def _places(text: str, folder: Path) -> list[Path]:
    """Where a text may point, if it is a path."""
    with suppress(OSError, ValueError, RuntimeError):  # a null byte, no such user
        path = Path(text).expanduser()
        return list(dict.fromkeys([(folder / path).resolve(), path.resolve()]))
    return []


def _texts(file: Path) -> list[str]:
    """The string constants of a Python file."""
    try:
        nodes = ast.walk(ast.parse(file.read_bytes()))
    except (SyntaxError, ValueError):
        return []  # reported when the file is run
    return [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]


class _Loader(yaml.SafeLoader):
    """Reads lm-eval's own tags as nothing."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: None)


def _content(file: Path) -> Any:
    try:
        return yaml.load(file.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None  # reported when the task is loaded
