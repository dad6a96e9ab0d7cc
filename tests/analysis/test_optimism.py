"""How much too high the best of several scores is because it is the best."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evomerge.analysis.optimism import Layout, expected_largest
from evomerge.types import TaskScores


def scored(*examples: float, score: float | None = None) -> TaskScores:
    mean = sum(examples) / len(examples)
    return TaskScores(mean if score is None else score, tuple(range(len(examples))), examples)


def layout(*rows: TaskScores) -> Layout:
    made = Layout()
    for row in rows:
        made.add({"x": row})
    return made


@pytest.mark.parametrize(
    ("count", "largest"),
    [
        (1, 0),
        (2, 1 / math.sqrt(math.pi)),
        (3, 1.5 / math.sqrt(math.pi)),
        (5, 1.1629644736),  # Harter 1961, Biometrika 48:151
        (10, 1.5387527308),
        (100, 2.5075936365),
    ],
)
def test_the_largest_of_several_normal_numbers_is_as_tables_have_it(
    count: int, largest: float
) -> None:
    assert expected_largest(count) == pytest.approx(largest, abs=1e-9)


def test_nothing_is_too_high_where_there_was_no_choice() -> None:
    assert layout(scored(0, 1, 1)).optimism({"x": 1.0}) == 0.0
    assert Layout().optimism({}) == 0.0


def test_who_was_asked_only_some_examples_is_to_choose_from_too() -> None:
    made = layout(scored(0, 1, 1, 0), scored(1, 0, 0, 1))
    of_two = made.optimism({"x": 1.0})
    made.others = 3
    assert of_two is not None
    more = expected_largest(5) / expected_largest(2)
    assert made.optimism({"x": 1.0}) == pytest.approx(of_two * more)
    alone = layout(scored(0, 1, 1))
    alone.others = 3
    assert alone.optimism({"x": 1.0}) is None


def test_candidates_that_differ_by_as_much_on_every_example_owe_nothing_to_luck() -> None:
    rows = [scored(0.1 + better, 0.7 + better, 0.4 + better) for better in (0, 0.1, 0.3)]
    assert layout(*rows).optimism({"x": 1.0}) == pytest.approx(0, abs=1e-9)


def test_the_layout_has_the_mean_square_of_what_candidate_and_example_leave() -> None:
    R_CN = np.random.default_rng(0).normal(50, 2, size=(7, 30))
    rest = R_CN - R_CN.mean(axis=1)[:, None] - R_CN.mean(axis=0) + R_CN.mean()
    noise = (rest**2).sum() / (6 * 29)
    optimism = layout(*(scored(*map(float, row)) for row in R_CN)).optimism({"x": 0.5})
    assert optimism == pytest.approx(expected_largest(7) * 0.5 * math.sqrt(noise / 30))


def test_tasks_count_by_what_they_are_worth() -> None:
    made, rows = Layout(), ((0, 1, 1, 0), (1, 0, 0, 1))
    for one, two in (rows, rows[::-1]):
        made.add({"one": scored(*one), "two": scored(*two)})
    of_one = layout(*(scored(*row) for row in rows)).optimism({"x": 1.0})
    assert of_one == pytest.approx(expected_largest(2) * math.sqrt(2 / 3 / 4))
    assert made.optimism({"one": 0.6, "two": 0.8}) == pytest.approx(of_one)


@pytest.mark.parametrize(
    "other",
    [
        scored(0, 1, 1, score=1.7),  # e.g. a perplexity
        scored(0, 1),
        scored(0, 1, math.inf, score=1.0),
        scored(0, 0, 1e200),
    ],
)
def test_nothing_is_known_of_scores_that_are_no_means_of_the_same_examples(
    other: TaskScores,
) -> None:
    assert layout(scored(0, 1, 1), other, scored(0, 0, 1)).optimism({"x": 1.0}) is None
    assert layout(scored(1), scored(0)).optimism({"x": 1.0}) is None
