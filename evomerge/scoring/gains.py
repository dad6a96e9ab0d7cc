"""How well a model does on each objective, and how far it is from what each must reach."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from evomerge.errors import SearchError
from evomerge.scoring.fitness import Fitness
from evomerge.scoring.objectives import Objective
from evomerge.scoring.value import reference
from evomerge.types import Evaluation

Gains = Mapping[str, float]


def gains(fitness: Fitness, evaluation: Evaluation, best_source: Mapping[str, float]) -> Gains:
    """By objective, of which more is better: of one that is minimized, the negative.

    Args:
        evaluation: on all examples of a split.
        best_source: the best source's score by task.

    Returns:
        Without the objectives that a task is part of which was not scored: not every task has
        held-out examples. Empty where nothing was.
    """
    if not evaluation.tasks:
        return {}
    return {
        name: objective.sign * _value(fitness, objective, evaluation, best_source)
        for name, objective in fitness.aims.items()
        if evaluation.tasks.keys() >= set(objective.tasks or ())
    }


def shortfall(fitness: Fitness, of: Gains, sources: Mapping[str, Gains]) -> float:
    """How much a model lacks of all floors together, each relative to its size; 0 at or above all.

    Args:
        of: the model's.
        sources: those of each source, by its name.

    Raises:
        SearchError: a floor is that of a source which could not be scored.
    """
    lacking = 0.0
    for name, floor in fitness.floors.items():
        if name not in of:
            continue
        if floor.source is None:
            least = floor.number
        elif own := sources.get(floor.source):
            least = floor.number * own[name]
        else:
            raise SearchError(
                f"floor: {name} is to reach what source {floor.source} does, which was not scored."
            )
        lacking += max(0.0, least - of[name]) / (abs(least) or 1.0)
    return lacking


def weighed(
    fitness: Fitness,
    evaluation: Evaluation,
    best_source: Mapping[str, float],
    sources: Mapping[str, Gains],
) -> Evaluation:
    """The evaluation with what it is worth on each objective, and what it lacks of the floors.

    Args:
        best_source: the best source's score by task.
        sources: from `evomerge.search.selection.source_gains`.
    """
    of = gains(fitness, evaluation, best_source)
    if not of:
        return evaluation
    return replace(evaluation, objectives=of, shortfall=shortfall(fitness, of, sources))


def _value(
    fitness: Fitness, objective: Objective, evaluation: Evaluation, best: Mapping[str, float]
) -> float:
    if objective.measure is not None:
        return _measured(objective.measure, evaluation)
    tasks = objective.tasks or ()
    own = tasks if isinstance(tasks, dict) else {t: fitness.tasks[t].weight for t in tasks}
    total = math.fsum(own.values())
    shares = {task: weight / total for task, weight in own.items()}
    always = fitness.model_copy(update={"normalize": "best_source"})
    divided = always if objective.aggregate == "retention" else fitness
    scores = {t: evaluation.tasks[t].score / reference(divided, t, best) for t in shares}
    if objective.aggregate == "worst":
        return min(scores.values())
    if objective.aggregate == "geometric_mean":
        if min(scores.values()) <= 0:
            return 0.0
        return math.exp(math.fsum(share * math.log(scores[t]) for t, share in shares.items()))
    return math.fsum(share * scores[task] for task, share in shares.items())


def _measured(measure: str, evaluation: Evaluation) -> float:
    if measure == "tokens":
        return evaluation.generated_tokens / evaluation.examples
    if measure == "seconds":
        return evaluation.generation_seconds / evaluation.examples
    return evaluation.measures[measure]
