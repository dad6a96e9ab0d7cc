"""Whether a run can go on, as far as that shows without its models."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.config.overrides import override
from evomerge.config.schema import SearchFile
from evomerge.config.validation import ProblemCollector
from evomerge.errors import Problem, shown
from evomerge.executors import Executor
from evomerge.plugins.registry import component
from evomerge.store import RunRecord
from evomerge.store.records import version_problem
from evomerge.version import versions
from evomerge.yaml_files import parse_yaml


def version_notes(record: RunRecord) -> tuple[str, ...]:
    """A sentence for each library whose version is another one than when a run began."""
    then = {name: made_by for name, made_by in record.versions.items() if name != "python"}
    now = versions(*(name for name in then if name != "evomerge"))
    return tuple(
        f"the run began with {name} {made_by}, and goes on with {now[name]}: scores may differ. "
        f"To compare like with like, install {name}=={made_by}."
        for name, made_by in then.items()
        if now[name] != made_by
    )


def stored_search(record: RunRecord, folder: str, overrides: Sequence[str] = ()) -> SearchFile:
    """The search that a run began with, perhaps with another executor.

    Args:
        folder: of the run, for messages.
        overrides: ``executor.workers=4`` and the like, values in YAML.

    Raises:
        ConfigError: the run is of another version, an override of something that a run keeps to
            its end, or no such executor: all at once.
    """
    collect = ProblemCollector(folder)
    content = parse_yaml(record.search_yaml, folder)
    for text in overrides:
        if text.partition("=")[0].partition(".")[0] == "executor":
            collect.make(override, content, text)
        else:
            why = (
                f"{shown(text)}: a run goes on as it began. Only executor and its keys may be set."
            )
            collect.problems.append(Problem((), why, file="--set"))
    if problem := version_problem(record, folder):
        collect.problems.append(problem)
        collect.stop()  # this version may know other keys
    file = collect.validated(content)
    collect.make(component, "executor", Executor, file.executor, needs=["executor"])
    collect.stop()
    return file
