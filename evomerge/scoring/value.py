"""The one number that a search maximises, made of the scores of its tasks, and its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress

from evomerge.scoring.fitness import Fitness
from evomerge.types import TaskScores

_ALIKE = 1e-9  # of the same mean, added up in another order
_SQUARABLE = 1e100  # the sum of the squares of many such scores is a float


def fitness_value(
    fitness: Fitness,
    tasks: Mapping[str, TaskScores],
    references: Mapping[str, float] | None = None,
) -> float:
    """Weighted mean of the task scores; higher is better.

    Args:
        tasks: by the task's name in the fitness; tasks without scores do not count.
        references: the best source's score by task, for ``normalize: best_source``; a task that
            no source solves at all counts unnormalized.

    Returns:
        Infinite or NaN where the scores are too large to be added up.
    """
    total = sum(fitness.tasks[name].weight for name in tasks) or 1.0
    parts = [
        (fitness.tasks[name].weight, scores.score, reference(fitness, name, references))
        for name, scores in tasks.items()
    ]
    with suppress(OverflowError, ValueError):  # the sum may overflow where the mean does not
        mean = math.fsum(weight * score / best for weight, score, best in parts) / total
        if math.isfinite(mean):
            return mean
    return sum(weight / total * (score / best) for weight, score, best in parts)


def shares(fitness: Fitness, references: Mapping[str, float]) -> dict[str, float]:
    """What a point of each task's score is worth in the fitness, up to a common factor."""
    return {
        name: task.weight / reference(fitness, name, references)
        for name, task in fitness.tasks.items()
    }


def interval(
    fitness: Fitness,
    tasks: Mapping[str, TaskScores],
    references: Mapping[str, float] | None = None,
) -> float:
    """Half width of the 95 % interval of `fitness_value`, from the scatter of the examples.

    Two wins and two losses are added to each task, so that a task solved completely still has
    a width (for scores in [0, 1]).

    Source: Agresti & Coull 1998, The American Statistician 52:119.
    """
    total = sum(fitness.tasks[name].weight for name in tasks)
    largest = max((abs(x) for scores in tasks.values() for x in scores.example_scores), default=0.0)
    scale = largest if largest > _SQUARABLE else 1.0
    variance = 0.0
    for name, scores in tasks.items():
        share = fitness.tasks[name].weight / total / reference(fitness, name, references)
        examples = [x / scale for x in (*scores.example_scores, 0.0, 0.0, 1.0, 1.0)]
        mean = math.fsum(examples) / len(examples)
        scatter = math.fsum((x - mean) ** 2 for x in examples) / len(examples)
        variance += share * share * scatter / len(examples)
    return 1.96 * math.sqrt(variance) * scale


def reference(fitness: Fitness, name: str, references: Mapping[str, float] | None) -> float:
    """What a task's score is divided by: the best source's, where the fitness is normalized."""
    if fitness.normalize == "none" or references is None:
        return 1.0
    best = references.get(name, 1.0)
    return best if best > 0 else 1.0


def is_mean(scores: TaskScores) -> bool:
    """Whether a task's score is the mean of its examples' scores, and these can be squared."""
    largest = max(map(abs, scores.example_scores), default=math.inf)
    if not largest < _SQUARABLE:
        return False
    mean = math.fsum(scores.example_scores) / len(scores.example_scores)
    return abs(mean - scores.score) <= _ALIKE * max(1.0, largest)
