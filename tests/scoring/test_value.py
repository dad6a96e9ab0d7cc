"""One number out of task scores."""

from __future__ import annotations

import math

import pytest

from evomerge.scoring import Fitness, fitness_value, interval
from evomerge.types import TaskScores


def scores(*examples: float) -> TaskScores:
    return TaskScores(sum(examples) / len(examples), tuple(range(len(examples))), examples)


def fitness(**keys: object) -> Fitness:
    tasks = {"a": {"task": "x", "weight": 3}, "b": {"task": "y"}}
    return Fitness.model_validate({"tasks": tasks, **keys})


def test_the_value_is_the_weighted_mean_of_tasks() -> None:
    tasks = {"a": scores(1, 1, 1, 0), "b": scores(0, 1)}
    assert fitness_value(fitness(), tasks) == (3 * 0.75 + 0.5) / 4


def test_a_task_counts_once_however_many_examples_it_has() -> None:
    few, many = scores(1, 0), scores(*[1, 0] * 500)
    assert fitness_value(fitness(), {"a": few, "b": many}) == 0.5


def test_best_source_has_a_normalized_value_of_one() -> None:
    tasks = {"a": scores(1, 0), "b": scores(1, 0, 0, 0)}
    best = {"a": 0.5, "b": 0.25}
    assert fitness_value(fitness(normalize="best_source"), tasks, best) == 1.0
    assert fitness_value(fitness(), tasks, best) < 1.0


def test_a_task_that_no_source_solves_counts_unnormalized() -> None:
    tasks = {"a": scores(1, 0), "b": scores(1, 0)}
    assert (
        fitness_value(fitness(normalize="best_source"), tasks, {"a": 0.5, "b": 0.0})
        == (3 * 1.0 + 0.5) / 4
    )


def test_the_interval_of_one_task_is_agresti_and_coulls() -> None:
    one = Fitness.model_validate({"tasks": ["x"]})
    found = interval(one, {"x": scores(*[1] * 80, *[0] * 20)})
    p, n = 82 / 104, 104
    assert found == pytest.approx(1.96 * math.sqrt(p * (1 - p) / n))


def test_a_perfect_score_still_has_a_width() -> None:
    one = Fitness.model_validate({"tasks": ["x"]})
    assert interval(one, {"x": scores(1, 1, 1, 1)}) > 0.1


def test_more_examples_narrow_the_interval() -> None:
    one = Fitness.model_validate({"tasks": ["x"]})
    wide, narrow = (interval(one, {"x": scores(*[1, 0] * n)}) for n in (50, 200))
    assert narrow == pytest.approx(wide / 2, rel=0.02)


@pytest.mark.parametrize("size", [1e307, 1e308, -1e308])
def test_huge_scores_have_a_value_and_a_width(size: float) -> None:
    tasks = {"a": TaskScores(size, (0, 1), (size, size)), "b": TaskScores(size, (0,), (size,))}
    assert fitness_value(fitness(), tasks) == pytest.approx(size)
    small = {"a": TaskScores(1.0, (0, 1), (1.0, 1.0)), "b": TaskScores(1.0, (0,), (1.0,))}
    width = interval(fitness(), tasks)
    assert math.isfinite(width)
    assert width > interval(fitness(), small)


def test_a_width_grows_with_the_scores_however_large_they_are() -> None:
    one = Fitness.model_validate({"tasks": ["x"]})
    small, large = (interval(one, {"x": scores(size, 0, -size, size)}) for size in (1e99, 1e101))
    assert large == pytest.approx(100 * small)


def test_what_cannot_be_added_up_is_not_finite() -> None:
    tasks = {"a": TaskScores(1e308, (0,), (1e308,)), "b": TaskScores(-1e308, (0,), (-1e308,))}
    best = {"a": 1e-300, "b": 1e-300}
    assert not math.isfinite(fitness_value(fitness(normalize="best_source"), tasks, best))
