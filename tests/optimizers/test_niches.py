"""Niches against numbers worked out by hand, and against the paper's formulas written out."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import numpy as np
import pytest

from evomerge.optimizers._example_scores import example_scores
from evomerge.optimizers._niches import EPSILON, Competition, Contest, NicheArchive, roulette
from evomerge.types import Evaluation, TaskScores

# who solves which of four examples: nobody solves the last
SOLVED = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 1, 0]], float)


def test_an_example_is_shared_among_those_who_solve_it() -> None:
    found = Contest(Competition(), SOLVED).fitness()
    assert found == pytest.approx([1 / 3 + 1, 1 / 3, 1 / 3 + 1], abs=1e-5)


@pytest.mark.parametrize("count", [5, 64, 333])
def test_fitness_is_summed_in_64_lanes_on_every_machine(count: int) -> None:
    scores = np.random.default_rng(0).random((7, count))
    gains = scores * (scores.max(0) / (scores.sum(0) + EPSILON))
    whole = count // 64 * 64
    for row, fitness in zip(gains, Contest(Competition(), scores).fitness(), strict=True):
        lanes = [0.0] * 64
        for j in range(count):
            lanes[j % 64 if j < whole else 0] += row[j]
        assert fitness == functools.reduce(operator.add, lanes)


def test_who_solves_as_many_is_as_fit_without_competition() -> None:
    rng = np.random.default_rng(0)
    scores = np.array([rng.permutation([1.0] * 500 + [0.0] * 937) for _ in range(20)])
    assert len(set(Contest(Competition(0.0, "one"), scores).fitness())) == 1
    assert len(set(Contest(Competition(0.0), scores).fitness())) == 1


def test_without_competition_fitness_is_the_sum_of_scores() -> None:
    assert Contest(Competition(0.0, "one"), SOLVED).fitness() == pytest.approx([2, 1, 2], abs=1e-5)


def test_alpha_two_shares_by_the_square_of_the_demand() -> None:
    found = Contest(Competition(2.0), SOLVED).fitness()
    assert found == pytest.approx([1 / 9 + 1, 1 / 9, 1 / 9 + 1], abs=1e-5)


def test_the_capacity_of_an_example_is_its_best_score() -> None:
    scores = np.array([[0.5, 0.2], [0.25, 0.2]])
    expected = [0.5 * 0.5 / 0.75 + 0.2 * 0.2 / 0.4, 0.25 * 0.5 / 0.75 + 0.2 * 0.2 / 0.4]
    assert Contest(Competition(), scores).fitness() == pytest.approx(expected, abs=1e-5)
    one = Contest(Competition(capacity="one"), scores).fitness()
    assert one == pytest.approx([0.5 / 0.75 + 0.5, 0.25 / 0.75 + 0.5], abs=1e-5)


def test_the_worst_score_is_taken_off_first() -> None:
    scores = np.array([[0.5, 0.2], [0.25, 0.2]])
    found = Contest(Competition(subtract_worst=True), scores).fitness()
    assert found == pytest.approx([0.25, 0.0], abs=1e-5)


def test_one_attracts_another_by_what_the_other_does_not_solve() -> None:
    assert Contest(Competition(), SOLVED).attraction(1) == pytest.approx([1, 0, 1], abs=1e-5)
    assert Contest(Competition(), SOLVED).attraction(0) == pytest.approx([0, 0, 1], abs=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.7])
@pytest.mark.parametrize("subtract_worst", [False, True])
@pytest.mark.parametrize("count", [11, 64, 150])
def test_the_formulas_are_those_of_the_paper(
    alpha: float, subtract_worst: bool, count: int
) -> None:
    scores = np.random.default_rng(0).random((5, count))
    contest = Contest(Competition(alpha, subtract_worst=subtract_worst), scores)
    s = [[float(x) for x in row] for row in scores]
    if subtract_worst:
        s = [[x - min(row[j] for row in s) for j, x in enumerate(one)] for one in s]
    examples = range(count)
    z = [sum(row[j] for row in s) for j in examples]
    c = [max(row[j] for row in s) for j in examples]
    f = [sum(row[j] * c[j] / (z[j] ** alpha + EPSILON) for j in examples) for row in s]
    assert contest.fitness() == pytest.approx(f, rel=1e-12)
    for a in range(5):
        g = [sum(c[j] / (z[j] + EPSILON) * max(row[j] - s[a][j], 0) for j in examples) for row in s]
        assert contest.attraction(a) == pytest.approx(g, rel=1e-12)


def archive_of(size: int, *rows: Sequence[float]) -> NicheArchive:
    """An archive into which candidates 0, 1, 2, ... with these scores were let."""
    archive = NicheArchive(size, Competition())
    for number, row in enumerate(rows):
        archive.add(
            number,
            example_scores(
                Evaluation("done", {"task": TaskScores(0.0, tuple(range(len(row))), tuple(row))})
            ),
        )
    return archive


def test_the_worst_of_one_too_many_leaves() -> None:
    archive = archive_of(3, *SOLVED.tolist(), [0, 0, 0, 1])
    assert archive.numbers == [0, 2, 3]
    assert archive.scores.tolist() == [[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]


def test_of_two_equally_bad_ones_the_older_leaves() -> None:
    assert archive_of(2, [0, 1], [1, 0], [0, 1]).numbers == [1, 2]


def test_a_newcomer_that_is_worst_leaves_at_once() -> None:
    assert archive_of(2, [0, 1], [1, 0], [0, 0]).numbers == [0, 1]


def test_a_roulette_is_as_likely_to_stop_as_weights_say() -> None:
    rng = np.random.default_rng(0)
    drawn = [roulette(np.array([1.0, 0.0, 3.0, 0.0]), rng) for _ in range(4000)]
    assert drawn.count(1) == drawn.count(3) == 0
    assert drawn.count(2) / 4000 == pytest.approx(0.75, abs=0.03)
    assert {roulette(np.zeros(3), rng) for _ in range(50)} == {0, 1, 2}
    assert {roulette(np.array([5e-324, 0.0]), rng) for _ in range(50)} == {0}
