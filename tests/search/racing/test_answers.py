"""Candidates that were asked different examples are compared by how much they did better."""

from __future__ import annotations

import random

import numpy as np
import pytest

from evomerge.search.racing.answers import Answers
from evomerge.search.racing.reliability import Reliability, Variances
from evomerge.types import Cells

SURE = Reliability(Variances(1.0, 0.0))
HALF = Reliability(Variances(1.0, 2.0))  # two examples rank with reliability 1/2


def answers(shares: dict[str, float] | None = None) -> Answers:
    return Answers({"a": (0, 1, 2, 3), "b": (5, 6)}, shares or {"a": 1.0, "b": 1.0})


def test_a_score_counts_by_what_others_have_on_the_same_examples() -> None:
    one = answers()
    one.add({"x": {"a": {0: 1.0, 1: 1.0}, "b": {5: 0.5}}, "y": {"a": {0: 0.0}, "b": {5: 0.5}}})
    one.add({"z": {"a": {2: 0.25, 3: 0.25}, "b": {6: 0.0}}})
    # difficulties: a 0.5, 1, 0.25, 0.25, of which the mean is 0.5; b 0.5, 0, mean 0.25
    expected = {"x": (0.25 + 0.5 + 0.25) / 2, "y": (-0.5 + 0.5 + 0.25) / 2, "z": (0.5 + 0.25) / 2}
    assert one.adjusted(SURE) == expected


def test_tasks_count_by_their_shares() -> None:
    one = answers({"a": 3.0, "b": 1.0})
    one.add({"x": {"a": {0: 1.0}, "b": {5: 0.0}}, "y": {"a": {0: 0.0}, "b": {5: 1.0}}})
    assert one.adjusted(SURE) == {"x": 0.75, "y": 0.25}


def test_few_examples_are_drawn_to_the_mean_of_their_cohort() -> None:
    one = answers()
    one.add({"x": {"a": {0: 1.0}, "b": {5: 1.0}}, "y": {"a": {0: 0.0}, "b": {5: 0.0}}})
    assert one.adjusted(HALF) == {"x": 0.75, "y": 0.25}
    assert one.adjusted(Reliability()) == {"x": 0.5, "y": 0.5}


def test_a_recipe_that_comes_again_is_asked_more_and_counted_once() -> None:
    one, again = answers(), answers()
    for these in (one, again):
        these.add({"x": {"a": {0: 1.0}, "b": {5: 1.0}}, "y": {"a": {0: 0.0}, "b": {5: 0.5}}})
    again.add({"x": {"a": {0: 1.0}, "b": {5: 1.0}}})
    assert one.adjusted(HALF) == again.adjusted(HALF)
    again.add({"x": {"a": {1: 0.0}, "b": {5: 1.0}}})
    assert again.adjusted(SURE)["x"] < one.adjusted(SURE)["x"]


def test_the_order_of_the_examples_changes_no_digit() -> None:
    generator = random.Random(0)
    whole = [
        {f"{c}.{n}": {"a": {e: generator.random() for e in (0, 1, 3)}, "b": {5: generator.random()}}
         for n in range(9)}
        for c in range(4)
    ]  # fmt: skip
    one, other = answers(), answers()
    for cohort in whole:
        one.add(cohort)
        turned: dict[str, Cells] = {
            digest: {task: dict(reversed(some.items())) for task, some in reversed(cells.items())}
            for digest, cells in cohort.items()
        }
        other.add(turned)
    assert one.adjusted(HALF) == other.adjusted(HALF)


def test_scores_too_large_to_be_added_up_are_left_out() -> None:
    one = answers()
    huge = {"a": {0: 1e308, 1: 1e308, 2: 1e308}, "b": {5: 1e308}}
    one.add({"x": huge, "y": huge})
    one.add({"z": {"a": {3: 0.5}, "b": {6: 0.5}}})
    assert one.adjusted(SURE) == {}  # of a task without a mean, nobody's is a number
    assert answers().adjusted(SURE) == {}


def test_on_whole_rows_it_is_the_score() -> None:
    generator = np.random.default_rng(0)
    scores = generator.random((5, 6)).tolist()
    one = answers()
    for number, row in enumerate(scores):
        one.add({str(number): {"a": dict(enumerate(row[:4])), "b": {5: row[4], 6: row[5]}}})
    expected = {str(n): (sum(r[:4]) / 4 + sum(r[4:]) / 2) / 2 for n, r in enumerate(scores)}
    assert one.adjusted(SURE) == pytest.approx(expected)
