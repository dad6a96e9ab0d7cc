"""Code that a stored run names, and on whose word it runs when the run is resumed.

A run that this user began on this machine is resumed without a question: its search was theirs. Any
other may come from a stranger, and what it would run is said first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from evomerge import presets
from evomerge.config.schema import SearchFile
from evomerge.engines import Engine
from evomerge.errors import ConfigError, Problem, RunError
from evomerge.plugins import registry, trusted
from evomerge.plugins.user_code import code_files
from evomerge.store import RunRecord

# whether to run what these sentences name; or a function that is asked
Trust = bool | Callable[[Sequence[str]], bool]

_TASK_FILES = {".yaml", ".yml", ".py"}
_LOOKED_AT = 1000  # files and folders in a folder of tasks, which may be any folder


def require_trust(
    record: RunRecord, file: SearchFile, folder: str, trust: Trust, overrides: Sequence[str] = ()
) -> None:
    """Raise for a run that somebody else began and that would run code; none of it runs here.

    Args:
        file: the run's search, as it will be resumed.
        folder: of the run, for messages.
        overrides: what whoever resumes it has set in the search.

    Raises:
        RunError: it is not trusted; says all that it would run.
    """
    own = [text.partition("=")[0] for text in overrides]
    code = [
        f"{path}: {what}"
        for path, what in executes(file)
        if not any(path == key or path.startswith(f"{key}.") for key in own)
    ]
    if not code or trusted.is_known(record.search_yaml):
        return
    if not (trust(code) if callable(trust) else trust):
        text = "was not begun on this machine by this user, and resuming it runs what follows."
        first = Problem((), text, "Look at it, then add --trust.", file=folder)
        raise RunError([first, *(Problem((), line, file=folder) for line in code)])
    trusted.remember(record.search_yaml)


def executes(file: SearchFile) -> Iterator[tuple[str, str]]:
    """What a search runs besides evomerge and installed packages: the key, and what it names."""
    yield from _of_engine(file.engine)
    for name, task in file.fitness.scorers.items():
        yield from _files(f"fitness.tasks.{name}.scorer", str(task.scorer))
    if file.fitness.include_path is not None:
        yield from _of_tasks(Path(file.fitness.include_path))
    address = file.executor.get("address")
    if isinstance(address, str) and ":" in address:  # whose answers are unpickled
        yield "executor.address", address
    environment = file.executor.get("runtime_env")
    if isinstance(environment, Mapping):
        yield from ((f"executor.runtime_env.{key}", str(v)) for key, v in environment.items())


def _of_engine(keys: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    name = keys.get("name")
    if name in registry.names("engines"):
        for key in sorted(registry.find("engines", name, Engine).code_keys & keys.keys()):
            yield from _files(f"engine.{key}", str(keys[key]))
    arguments = keys.get("vllm")  # some of which name code
    if isinstance(arguments, Mapping):
        yield from ((f"engine.vllm.{key}", str(value)) for key, value in arguments.items())
    if "/" in str(keys.get("attention", "")):  # a kernel on the hub
        yield "engine.attention", str(keys["attention"])


def _files(where: str, reference: str) -> Iterator[tuple[str, str]]:
    """The files of a function, which are read and not run."""
    try:
        yield from ((where, str(file)) for file in code_files(reference))
    except ConfigError:  # it is not there
        yield where, reference


def _of_tasks(folder: Path) -> Iterator[tuple[str, str]]:
    """Files of lm-eval tasks: lm-eval runs their templates and functions without a sandbox."""
    if folder.resolve().is_relative_to(presets.shipped("fitness").resolve()):
        return
    where = "fitness.include_path"
    yield where, str(folder)
    found = sorted(path for path in islice(folder.rglob("*"), _LOOKED_AT))
    yield from ((where, str(path)) for path in found if path.suffix in _TASK_FILES)
