"""The files of a fitness's own lm-eval tasks: whether each of them can be opened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evomerge.errors import Problem
from evomerge.files import require_regular
from evomerge.scoring.fitness import Fitness


def task_file_problems(fitness: Fitness) -> list[Problem]:
    """What lm-eval could not open, or would wait for without an end: folders, pipes, devices.

    These are the YAML files in ``include_path`` and the local data files that they name.
    """
    if fitness.include_path is None:
        return []
    found: list[Problem] = []
    for file in sorted(Path(fitness.include_path).rglob("*.yaml")):
        for path in (file, *_data_files(file)):
            if not path.exists() and path is not file:
                continue  # a pattern, or an address
            try:
                require_regular(path)
            except OSError as error:
                text = f"{path}: cannot be read: {error.strerror}"
                found.append(Problem(("include_path",), text))
    return list(dict.fromkeys(found))


def _data_files(file: Path) -> Iterator[Path]:
    """The paths under ``dataset_kwargs.data_files`` of a task, seen as lm-eval sees them."""
    from lm_eval.tasks._yaml_loader import load_yaml

    if not file.is_file():
        return
    try:
        content = load_yaml(file, resolve_func=False, recursive=False)
    except Exception:
        return  # whatever is wrong with it, lm-eval says when it loads it
    options = content.get("dataset_kwargs")
    yield from _paths(options.get("data_files") if isinstance(options, dict) else None)


def _paths(value: Any) -> Iterator[Path]:
    if isinstance(value, str) and "\0" not in value:
        yield Path(value)
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _paths(inner)
