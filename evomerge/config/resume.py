"""What keeps a run from going on, as far as that shows without its models: told at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evomerge.config.overrides import override
from evomerge.config.schema import SearchFile
from evomerge.config.validation import attempt
from evomerge.errors import ConfigError, RunError
from evomerge.executors import Executor
from evomerge.plugins.registry import component
from evomerge.store import RunRecord
from evomerge.store.records import OTHER_VERSION
from evomerge.version import __version__
from evomerge.yaml_files import parse_yaml


def resumed(text: str, where: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The resolved YAML that a run keeps, perhaps with another executor.

    Args:
        overrides: ``executor.workers=4`` and the like, values in YAML.

    Raises:
        ConfigError: keys that a run keeps to its end, and an executor that there is not.
    """
    content, problems = parse_yaml(text, where), list[str]()
    for one in overrides:
        if one.partition("=")[0].partition(".")[0] != "executor":
            problems.append(
                f"--set: {one!r}: a run goes on as it began. Only executor and its keys may be set."
            )
        else:
            attempt(problems, "--set", override, content, one)
    try:
        keys = SearchFile.model_validate(content).executor
    except ValidationError:
        pass  # is told with all else that is wrong
    else:
        attempt(problems, where, component, "executor", Executor, keys)
    if problems:
        raise ConfigError(dict.fromkeys(problems))
    return content


def require_version(record: RunRecord, folder: Path) -> None:
    """Raise for a run of another version.

    Raises:
        RunError: it says so.
    """
    if record.versions.get("evomerge") != __version__:
        raise RunError(f"{folder}: changed since the run began: {OTHER_VERSION}")
