"""What is known of the examples of a search before any is asked."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.errors import ConfigError
from evomerge.scoring.fitness import Fitness, Task
from evomerge.scoring.python import load_scorer, scorer_problems
from evomerge.scoring.tasks import survey_tasks


@dataclass(frozen=True, slots=True)
class SearchExamples:
    """The examples of a fitness's search split.

    Attributes:
        counts: task to how many there are; those of scorers are not known.
        indivisible: task to why its score is no mean over any examples that one likes.
        generated: whether any task has text generated, rather than given texts rated.
    """

    counts: Mapping[str, int]
    indivisible: Mapping[str, str]
    generated: bool


def search_examples(fitness: Fitness) -> SearchExamples:
    """Load every task and scorer once; no model.

    Raises:
        ConfigError: everything that is wrong with them.
    """
    survey = survey_tasks(fitness)
    if problems := [*survey.problems, *scorer_problems(fitness)]:
        raise ConfigError(problems)
    tasks = {
        name: (settings, survey.loaded[str(settings.task)])
        for name, settings in fitness.lm_eval_tasks.items()
    }
    reasons = {
        name: "its scorer takes no `examples`."
        for name, task in fitness.scorers.items()
        if "examples" not in inspect.signature(load_scorer(name, task)).parameters
    }
    for name, (settings, task) in tasks.items():
        metric = _metric(settings, task)
        if getattr(task.aggregation()[metric], "__name__", "") != "mean":
            reasons[name] = f"{metric} is no mean over its examples."
    return SearchExamples(
        counts={name: len(survey.chosen["search", name]) for name in tasks},
        indivisible=reasons,
        generated=any(task.OUTPUT_TYPE == "generate_until" for _, task in tasks.values()),
    )


def _metric(settings: Task, task: Any) -> str:
    """The one that is named, or the task's first."""
    listed = [str(item["metric"]) for item in task.get_config("metric_list") or []]
    return settings.metric or next(iter([*listed, *task.aggregation()]))
