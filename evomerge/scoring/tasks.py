"""The lm-eval tasks of a fitness: finding and loading them, and drawing their examples."""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np

from evomerge.errors import ConfigError, Problem, shown
from evomerge.plugins.registry import did_you_mean
from evomerge.scoring.fitness import Fitness, Task
from evomerge.types import Split

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager


class TaskSurvey(NamedTuple):
    """What loading the lm-eval tasks of a fitness has shown.

    Attributes:
        problems: all that is wrong with them and their data.
        chosen: split and task of the fitness to the documents that are asked.
        loaded: lm-eval's name to the task; None where it cannot be loaded.
    """

    problems: list[Problem]
    chosen: dict[tuple[Split, str], tuple[int, ...]]
    loaded: dict[str, Any]


def survey_tasks(fitness: Fitness) -> TaskSurvey:
    """Load every lm-eval task of a fitness once, with its data; no model."""
    if not fitness.lm_eval_tasks:
        return TaskSurvey([], {}, {})
    unknown = _unknown_tasks(fitness)
    problems = [
        Problem((), f"no lm-eval task is called {shown(name)}.", near)
        for name, near in unknown.items()
    ]
    problems += _without_held_out(fitness)
    manager = task_manager(fitness, without=unknown)
    loaded: dict[str, Any] = dict.fromkeys(unknown)
    chosen: dict[tuple[Split, str], tuple[int, ...]] = {}
    for split in get_args(Split):
        for name, settings in fitness.lm_eval_tasks.items():
            source = settings.examples_from(split)
            if source is None:
                continue
            try:
                if source not in loaded:
                    loaded[source] = None  # a problem is reported once
                    loaded[source] = load_task(name, source, manager)
                if (task := loaded[source]) is None:
                    continue
                problems += name_problems(name, settings, task)
                problems += shots_problems(name, task, settings.num_fewshot)
                chosen[split, name] = draw_documents(
                    name, settings, split, fitness.seed, len(task.eval_docs)
                )
            except ConfigError as error:
                problems += error.details
    leaks = fitness.leaks(
        lambda held, searched: (
            not set(chosen.get(("held_out", held), ())).isdisjoint(
                chosen.get(("search", searched), ())
            )
        )
    )
    return TaskSurvey([*dict.fromkeys(problems), *leaks], chosen, loaded)


def example_counts(fitness: Fitness) -> dict[str, dict[str, int]]:
    """Examples by split and task; loads the tasks' data but no model.

    Raises:
        ConfigError: everything that `survey_tasks` finds wrong.
    """
    survey = survey_tasks(fitness)
    if survey.problems:
        raise ConfigError(survey.problems)
    return {
        split: {name: len(ids) for (of, name), ids in survey.chosen.items() if of == split}
        for split in get_args(Split)
    }


def task_manager(fitness: Fitness, without: Collection[str] = ()) -> TaskManager:
    """lm-eval's finder of tasks: in the fitness's own folder, and among lm-eval's where needed.

    Args:
        without: names that need not be found.
    """
    own = _own_tasks(fitness)
    if own is not None and set(_lm_eval_names(fitness)) <= {*own.all_tasks, *without}:
        return own
    return _with_defaults(fitness.include_path)


def name_problems(name: str, settings: Task, task: Any) -> list[Problem]:
    """What is wrong with a task's metric and filter: names that the lm-eval task does not have."""
    filters = [ensemble.name for ensemble in getattr(task, "_filters", [])]
    return [
        Problem(
            ("tasks", name),
            f"{task.config.task} has no {kind} {shown(asked)}.",
            did_you_mean(asked, known),
        )
        for kind, asked, known in (
            ("metric", settings.metric, list(task.aggregation())),
            ("filter", settings.filter, filters),
        )
        if asked is not None and asked not in known
    ]


def shots_problems(name: str, task: Any, shots: int | None) -> list[Problem]:
    """What is wrong where more examples are to be shown before a question than there are.

    Args:
        name: of the task in the fitness.
        shots: how many are to be shown; None for none.
    """
    if not shots:
        return []
    there = len(list(task.fewshot_docs()))
    split = getattr(getattr(task, "fewshot_cfg", None), "split", None)
    if split is not None and split == task.config.test_split:
        there -= 1  # a question is not shown before itself
    if shots <= there:
        return []
    text = f"{shots} examples to show, {task.config.task} has {there}."
    return [Problem(("tasks", name, "num_fewshot"), text, "Show fewer.")]


def draw_documents(
    name: str, settings: Task, split: Split, seed: int, available: int
) -> tuple[int, ...]:
    """The documents to ask, ascending; disjoint between splits that draw from one task.

    Args:
        available: how many documents the split's lm-eval task has.

    Raises:
        ConfigError: fewer than the fitness asks for, or none.
    """
    wanted = settings.search_examples if split == "search" else settings.held_out_examples
    key = zlib.crc32(str(settings.task).encode())
    order = np.random.default_rng([seed, key]).permutation(available)
    searched = 0
    if split == "held_out" and settings.held_out is None:
        searched = min(settings.search_examples or 0, available)
        order = order[searched:]
    chosen: list[int] = order[:wanted].tolist()
    if not chosen or (wanted is not None and len(chosen) < wanted):
        taken = f", {searched} of them for the search" if searched else ""
        text = (
            f"{split} wants {wanted or 'some'} examples, "
            f"{settings.examples_from(split)} has {available} in all{taken}."
        )
        raise ConfigError(Problem(("tasks", name), text, "Ask for fewer."))
    return tuple(sorted(chosen))


def _without_held_out(fitness: Fitness) -> list[Problem]:
    """Tasks that hold nothing out though others do: search and held-out would not compare."""
    tasks = fitness.lm_eval_tasks
    without = [name for name, task in tasks.items() if task.examples_from("held_out") is None]
    if len(without) == len(tasks):
        return []
    text, cure = "holds nothing out though others do.", "Give it held_out or search_examples."
    return [Problem(("tasks", name), text, cure) for name in without]


def load_task(name: str, lm_eval_name: str, manager: TaskManager) -> Any:
    """The lm-eval task with its data.

    Args:
        name: in the fitness.

    Raises:
        ConfigError: it is a group, or its data cannot be loaded.
    """
    try:
        task = manager.load([lm_eval_name])["tasks"].get(lm_eval_name)
        if task is not None:
            len(task.eval_docs)
    except Exception as error:  # whatever a hub, a disk or a task's own code comes up with
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        text = f"the data of {lm_eval_name} cannot be loaded: {reason}"
        raise ConfigError(Problem(("tasks", name), text)) from error
    if task is None:
        text, cure = f"{lm_eval_name} is a group of tasks.", "Name its tasks one by one."
        raise ConfigError(Problem(("tasks", name), text, cure))
    return task


def _unknown_tasks(fitness: Fitness) -> dict[str, str]:
    """Names that lm-eval does not know, each with a suggestion."""
    own = _own_tasks(fitness)
    own_names = own.all_tasks if own is not None else []
    missing = [name for name in _lm_eval_names(fitness) if name not in own_names]
    near = {name: difflib.get_close_matches(name, own_names, n=1) for name in missing}
    # an own task that is mistyped needs no index of lm-eval's 14 000 files, which takes 15 s
    if all(near.values()) and not _lm_eval_mentions(missing):
        return {name: did_you_mean(name, own_names) for name in missing}
    known = _with_defaults(fitness.include_path).all_tasks
    return {  # one name or none: the whole list is too long to print
        name: did_you_mean(name, near[name] or difflib.get_close_matches(name, known, n=1))
        for name in missing
        if name not in known
    }


def _lm_eval_mentions(names: list[str]) -> bool:
    """Whether any of the names stands anywhere in lm-eval's own task files; takes 1 s."""
    if not names:
        return False
    import lm_eval.tasks

    wanted = [name.encode() for name in names]
    files = Path(lm_eval.tasks.__file__).parent.rglob("*.yaml")
    return any(name in text for text in map(Path.read_bytes, files) for name in wanted)


def _lm_eval_names(fitness: Fitness) -> list[str]:
    tasks = fitness.lm_eval_tasks.values()
    names = [name for task in tasks for name in (task.task, task.held_out) if name]
    return list(dict.fromkeys(names))


def _own_tasks(fitness: Fitness) -> TaskManager | None:
    from lm_eval.tasks import TaskManager

    if fitness.include_path is None:
        return None
    return TaskManager(include_path=fitness.include_path, include_defaults=False)  # 1 ms


@cache
def _with_defaults(include_path: str | None) -> TaskManager:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path)  # 15 s
