"""From task scores to one fitness value, with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping

from evomerge.scoring.fitness import Fitness
from evomerge.types import TaskScores


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
    """
    total = sum(fitness.tasks[name].weight for name in tasks)
    return math.fsum(
        fitness.tasks[name].weight * scores.score / _reference(fitness, name, references)
        for name, scores in tasks.items()
    ) / (total or 1.0)


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
    variance = 0.0
    for name, scores in tasks.items():
        share = fitness.tasks[name].weight / total / _reference(fitness, name, references)
        examples = [*scores.example_scores, 0.0, 0.0, 1.0, 1.0]
        mean = math.fsum(examples) / len(examples)
        scatter = math.fsum((x - mean) ** 2 for x in examples) / len(examples)
        variance += share**2 * scatter / len(examples)
    return 1.96 * math.sqrt(variance)


def _reference(fitness: Fitness, name: str, references: Mapping[str, float] | None) -> float:
    if fitness.normalize == "none" or references is None:
        return 1.0
    reference = references.get(name, 1.0)
    return reference if reference > 0 else 1.0
