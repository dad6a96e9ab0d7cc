"""What is left of the models of a search that is after several things."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from evomerge.scoring import Fitness
from evomerge.scoring.gains import gains
from evomerge.search.front import SHOWN, Front, Point, find_front, hypervolume
from evomerge.types import Evaluation, TaskScores

TWO = Fitness.model_validate({"tasks": ["a", "b"]})
Examples = Sequence[float]


def evaluation(
    *of_tasks: Examples, tasks: Sequence[str] = ("a", "b"), **measured: float
) -> Evaluation:
    scores = {
        name: TaskScores(sum(one) / len(one), tuple(range(len(one))), tuple(one))
        for name, one in zip(tasks, of_tasks, strict=True)
    }
    return Evaluation("done", scores, measures=measured)


def point(number: int, found: Evaluation, fitness: Fitness = TWO, **keys: Any) -> Point:
    of = gains(fitness, found, {})
    value = sum(scores.score for scores in found.tasks.values()) / len(found.tasks)
    return Point(number, keys.pop("digest", f"recipe {number}"), value, of, **keys)


def front(*found: Evaluation, fitness: Fitness = TWO, **keys: Any) -> Front:
    """The front of candidates 0, 1, 2 ..."""
    by_digest = {f"recipe {number}": one for number, one in enumerate(found)}
    points = [point(number, one, fitness) for number, one in enumerate(found)]
    return find_front(fitness, points, by_digest.get, {}, keys.get("seed", 0))


def sure(*scores: float) -> Evaluation:
    """The same score on every example, so that all resamples agree."""
    return evaluation(*([score, score] for score in scores))


def numbers(points: Sequence[Point]) -> list[int]:
    return [one.number for one in points]


def test_whoever_is_beaten_on_no_objective_is_on_the_front_the_best_fitness_first() -> None:
    found = front(sure(1.0, 0.0), sure(0.5, 0.75), sure(0.5, 0.5), sure(0.0, 1.0), sure(0.0, 0.0))
    assert numbers(found.shown) == [1, 0, 3]
    assert found.kept == found.shown
    assert (found.compared, found.non_dominated) == (5, 3)


def test_the_hypervolume_is_what_lies_between_the_front_and_its_reference() -> None:
    found = front(sure(1.0, 0.25), sure(0.5, 0.5))
    assert found.reference == {"a": 0.0, "b": 0.0}
    assert hypervolume([one.gains for one in found.shown], found.reference) == 0.25 + 0.125
    assert hypervolume([], found.reference) == 0.0
    assert hypervolume([{"a": -1.0, "b": 1.0}], found.reference) == 0.0


def test_one_objective_has_a_front_of_the_best() -> None:
    one = Fitness.model_validate({"tasks": ["a"]})
    found = front(
        *(evaluation([score, score], tasks=["a"]) for score in (0.5, 0.75, 0.25)), fitness=one
    )
    assert numbers(found.shown) == [1]
    assert hypervolume([found.shown[0].gains], found.reference) == 0.75


def test_of_one_recipe_and_of_equal_gains_one_point_is_kept() -> None:
    better, same, other = sure(0.5, 0.75), sure(0.5, 0.75), sure(0.75, 0.25)
    by_digest = {"x": better, "y": same, "z": other}
    points = [
        *(point(3, same, digest="y"), point(1, better, digest="x"), point(2, better, digest="x")),
        *(point(5, other, digest="z"), point(4, other, digest="z")),
    ]
    assert numbers(find_front(TWO, points, by_digest.get, {}, 0).shown) == [1, 4]


def test_whoever_fails_a_floor_or_has_no_finite_score_is_left_out() -> None:
    good, great = sure(0.5, 0.5), sure(1.0, 1.0)
    points = [
        point(0, good),
        point(1, great, shortfall=0.1),
        Point(2, "recipe 2", 0.5, {}),
        Point(3, "recipe 3", float("inf"), {"a": float("inf"), "b": 1.0}),
    ]
    found = find_front(TWO, points, {"recipe 0": good}.get, {}, 0)
    assert numbers(found.shown) == [0]
    assert find_front(TWO, points[1:], lambda digest: None, {}, 0) == Front(0, 0, (), (), {}, {})


def test_example_scores_are_read_of_non_dominated_points_alone() -> None:
    found, asked = [sure(1.0, 0.0), sure(0.5, 0.0), sure(0.0, 1.0)], []

    def read(digest: str) -> Evaluation:
        asked.append(digest)
        return found[int(digest.removeprefix("recipe "))]

    find_front(TWO, [point(n, one) for n, one in enumerate(found)], read, {}, 0)
    assert asked == ["recipe 0", "recipe 2"]


def noisy(seed: int, right: int) -> list[float]:
    """So many of 240 examples, whichever."""
    scores = [1.0] * right + [0.0] * (240 - right)
    random.Random(seed).shuffle(scores)
    return scores


def test_a_point_whose_place_is_luck_is_dropped() -> None:
    """It is a hair better on a than ten others, each of them clearly better on b."""
    others = [evaluation(noisy(k, 120 - k), noisy(100 + k, 140 + k)) for k in range(10)]
    lucky = evaluation([0.505] * 240, [0.25] * 240)
    best = evaluation([0.625] * 240, [0.0] * 240)  # on a
    found = front(lucky, best, *others)
    assert (found.compared, found.non_dominated) == (12, 12)
    assert 0 not in numbers(found.kept)
    assert 1 in numbers(found.kept)
    assert numbers(front(lucky, *others[:1]).kept) == [1, 0]  # of which one other tells nothing


def test_measures_are_the_same_in_every_resample() -> None:
    fitness = Fitness.model_validate(
        {
            "tasks": ["a"],
            "objectives": {"good": {"tasks": ["a"]}, "blocks": {"measure": "layers"}},
        }
    )
    found = [
        evaluation([1.0, 0.0, 1.0, 1.0], tasks=["a"], layers=24.0),
        evaluation([1.0, 0.0, 0.0, 0.0], tasks=["a"], layers=20.0),
        evaluation([0.0, 0.0, 0.0, 0.0], tasks=["a"], layers=22.0),
    ]
    points = [point(n, one, fitness, baseline=n == 0) for n, one in enumerate(found)]
    read = {f"recipe {n}": one for n, one in enumerate(found)}.get
    of = find_front(fitness, points, read, {}, 0)
    assert numbers(of.shown) == [0, 1]
    assert of.reference == {"good": 0.0, "blocks": pytest.approx(-24 * 1.1)}
    assert [widths["blocks"] for widths in of.half_widths.values()] == [0.0, 0.0]
    assert all(widths["good"] > 0 for widths in of.half_widths.values())
    assert hypervolume([one.gains for one in of.shown], of.reference) == pytest.approx(
        0.75 * 2.4 + 0.25 * 4
    )


def test_the_reference_of_scores_that_may_be_negative_is_below_the_worst_baseline() -> None:
    found = [sure(-2.0, 0.0), sure(-1.0, 1.0), sure(-4.0, 2.0)]
    points = [point(n, one, baseline=n < 2) for n, one in enumerate(found)]
    read = {f"recipe {n}": one for n, one in enumerate(found)}.get
    assert find_front(TWO, points, read, {}, 0).reference == {"a": -2.2, "b": 0.0}


def test_a_score_that_is_no_mean_of_its_examples_is_taken_as_it_is() -> None:
    scores = TaskScores(0.9, (0, 1), (0.0, 1.0))
    one = Evaluation("done", {"a": scores, "b": scores})
    found = front(one)
    assert found.half_widths == {0: {"a": 0.0, "b": 0.0}}


def test_a_long_front_is_thinned_to_those_that_add_the_most() -> None:
    stairs = [(k + 1, SHOWN - k) for k in range(SHOWN)]
    between = [(a + 0.25, b - 0.75) for a, b in stairs[:-1]]  # adds 1/16, a stair at least 1/2
    found = front(*(sure(float(a), b) for a, b in [*between, *stairs]))
    assert len(found.kept) == 2 * SHOWN - 1
    assert set(numbers(found.shown)) == set(range(SHOWN - 1, 2 * SHOWN - 1))


def test_the_order_of_the_points_changes_nothing_and_neither_does_a_second_time() -> None:
    found = [evaluation(noisy(n, 90 + n), noisy(50 + n, 150 - n)) for n in range(15)]
    points = [point(n, one) for n, one in enumerate(found)]
    read = {f"recipe {n}": one for n, one in enumerate(found)}.get
    first = find_front(TWO, points, read, {}, 7)
    assert find_front(TWO, points[::-1], read, {}, 7) == first
    assert find_front(TWO, points, read, {}, 8).half_widths != first.half_widths


def test_of_many_that_beat_one_another_by_turns_some_are_kept() -> None:
    """Each leads in few resamples; dropped at a stroke, nearly all of them would be gone."""

    def near(seed: int, more: float) -> list[float]:
        return [score + more for score in noisy(seed, 120)]

    found = front(*(evaluation(near(n, n / 1e6), near(99 + n, -n / 1e6)) for n in range(80)))
    assert found.non_dominated == 80
    assert 10 <= len(found.kept) < 80
