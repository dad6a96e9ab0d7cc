"""The Python files that a model folder names for Transformers to run; here they are only read."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from warnings import catch_warnings

from evomerge.files import parse_object, read_bytes

_CONFIGS = ("*config.json", "modules.json")
# code that Transformers looks for by its place alone
_GENERATE = "custom_generate/generate.py"


class ModelCode(NamedTuple):
    """What `model_code` finds.

    Attributes:
        files: relative paths, sorted, with ``/``.
        notes: sentences about code that is named and not there.
    """

    files: tuple[str, ...]
    notes: tuple[str, ...]


def model_code(folder: Path, configs: Sequence[str] = _CONFIGS) -> ModelCode:
    """The Python files that a folder's configs name, and those that these import from beside them.

    Configs name them as ``auto_map`` (``module.Class``), ``custom_pipelines`` and, in
    ``modules.json`` of sentence-transformers, ``type``. Code of another repository
    (``org/name--module.Class``) stays there.

    Args:
        configs: glob patterns of those that count.
    """
    files: dict[str, None] = {}
    notes: list[str] = []
    unread: list[tuple[str, str]] = []  # a file, and what names it
    for config in sorted(file for pattern in configs for file in folder.glob(pattern)):
        for reference in _references(config):
            repository, dashes, rest = reference.rpartition("--")
            name = f"{rest.partition('.')[0]}.py"
            if dashes:
                text = f"{config}: names code of {repository}, which is not copied: {reference}."
                notes.append(f"{text} Whoever loads the model with trust_remote_code downloads it.")
            elif config.name != "modules.json" or (folder / name).is_file():
                unread.append((name, config.name))
    if configs is _CONFIGS and (folder / _GENERATE).is_file():
        unread.append((_GENERATE, ""))
    while unread:
        name, by = unread.pop(0)
        if name in files or not _is_below(name):
            continue
        if not (folder / name).is_file():
            notes.append(
                f"{folder}: {by} names {name}, which is not there, so that the model cannot be "
                "loaded with trust_remote_code. Copy the file from where the model comes from."
            )
            continue
        files[name] = None
        unread += [(imported, name) for imported in _imports(folder, name)]
    return ModelCode(tuple(sorted(files)), tuple(dict.fromkeys(notes)))


def _references(config: Path) -> list[str]:
    """``module.Class`` and ``repo--module.Class``, of all that a config names."""
    try:
        text = read_bytes(config)
        if config.name == "modules.json":
            listed = json.loads(text)
            rows = listed if isinstance(listed, list) else []
            found = [row.get("type") for row in rows if isinstance(row, Mapping)]
        else:
            found = list(_named(parse_object(text)))
    except (OSError, ValueError, RecursionError):
        return []  # reported by who needs it
    return [reference for reference in found if isinstance(reference, str) and "." in reference]


def _named(content: Any) -> Iterator[Any]:
    """The references in a config and in the configs of its parts."""
    if not isinstance(content, Mapping):
        return
    for key, value in content.items():
        if key == "auto_map" and isinstance(value, Mapping):
            for reference in value.values():  # a tokenizer has two: slow, fast
                yield from reference if isinstance(reference, list) else [reference]
        elif key == "custom_pipelines" and isinstance(value, Mapping):
            yield from (one.get("impl") for one in value.values() if isinstance(one, Mapping))
        else:
            yield from _named(value)


def _imports(folder: Path, name: str) -> list[str]:
    """The files that a file imports relatively, each once; a name from a package may be none."""
    try:
        with catch_warnings(action="ignore"):  # of a stranger's syntax
            tree = ast.parse((folder / name).read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError):
        return []
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            home = PurePosixPath(name)
            for _ in range(node.level):
                home = home.parent
            if node.module is not None:
                found.append(_file(folder, home.joinpath(*node.module.split("."))))
            else:
                named = [_file(folder, home / alias.name) for alias in node.names]
                found += [file for file in named if (folder / file).is_file()]
    return list(dict.fromkeys(found))


def _file(folder: Path, module: PurePosixPath) -> str:
    """The file of a module: ``a/b.py``, or that of a package."""
    package = module / "__init__.py"
    return str(package) if (folder / package).is_file() else f"{module}.py"


def _is_below(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
