"""Who climbs, who retires, and how they stand."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from evomerge.search.racing.cohort import Cohort, Rules, Standing
from evomerge.search.racing.deck import Deck
from evomerge.search.racing.race import Race
from evomerge.search.racing.reliability import Reliability
from evomerge.search.racing.settings import Racing
from evomerge.types import Cells, Portion

EXAMPLES = {"a": tuple(range(80)), "b": tuple(range(40))}
SHARES = {"a": 1.0, "b": 1.0}


def race(size: int = 8, **keys: float) -> Race:
    racing = Racing.model_validate({"first": 4, **keys})
    return Race(racing, size, Deck(EXAMPLES, SHARES, (0, 0)), SHARES)


def answer(portion: Portion, quality: float) -> Cells:
    """Scores that rank by quality on whatever examples."""
    return {task: dict.fromkeys(ids, quality) for task, ids in portion.items()}


def run_cohort(one: Race, qualities: list[float], order: random.Random) -> tuple[Cohort, int]:
    """A whole cohort, its answers in any order; also how many examples were asked."""
    for number, _ in enumerate(qualities):
        one.join(number, f"r{number}", {}, one.rules)
    waiting, asked = list(range(len(qualities))), 0
    while waiting:
        number = waiting.pop(order.randrange(len(waiting)))
        portion = one.lacking(number)
        asked += sum(map(len, portion.values()))
        one.learn(f"r{number}", answer(portion, qualities[number]))
        waiting += one.climb()
    closed = one.close()
    assert closed is not None
    return closed, asked


@pytest.mark.parametrize("seed", range(5))
def test_the_better_half_goes_on_whatever_the_order_of_the_answers(seed: int) -> None:
    qualities = [0.1, 0.8, 0.2, 0.7, 0.3, 0.6, 0.4, 0.5]
    closed, asked = run_cohort(race(), qualities, random.Random(seed))
    assert [closed.standings[n].rung for n in range(8)] == [0, 2, 0, 2, 0, 1, 0, 1]
    assert [closed.standings[n].score for n in range(8)] == pytest.approx(qualities)
    assert asked == Racing(first=4).of_cohort(8, [4, 8, 16]) == 8 * 4 + 4 * 4 + 2 * 8
    assert closed.examples == asked
    best_first = sorted(closed.standings, key=lambda n: closed.standings[n], reverse=True)
    assert best_first == [1, 3, 5, 7, 6, 4, 2, 0]


def test_tasks_count_by_their_shares_however_many_examples_they_have() -> None:
    one = race(size=2, rungs=1)
    one.join(0, "x", {}, one.rules)
    hand = one.open[0].hand.of_rung(0)
    cells = {"a": dict.fromkeys(hand["a"], 1.0), "b": dict.fromkeys(hand["b"], 0.0)}
    assert one.score(cells, hand) == 0.5
    one._shares = {"a": 3.0, "b": 1.0}
    assert one.score(cells, hand) == 0.75


def test_those_that_tie_across_the_cut_go_on_if_they_are_few() -> None:
    order = random.Random(0)
    few, _ = run_cohort(race(16), [0.9] * 7 + [0.5] * 3 + [0.1] * 6, order)
    assert [few.standings[n].rung for n in range(7, 10)] == [1, 1, 1]  # 10 went on, not 8
    many, _ = run_cohort(race(16), [0.9] * 7 + [0.5] * 9, order)
    assert [many.standings[n].rung > 0 for n in range(7, 16)] == [True] + [False] * 8


def test_failed_candidates_stand_last_and_a_cohort_of_them_closes() -> None:
    one = race(size=4)
    for number in range(4):
        one.join(number, f"r{number}", {}, one.rules)
        one.fail(f"r{number}")
    assert one.climb() == []
    closed = one.close()
    assert closed is not None
    assert set(closed.standings.values()) == {Standing(-1, -math.inf)}
    assert Standing(-1, -math.inf) < Standing(0, 0.0) < Standing(0, 0.5) < Standing(1, 0.1)


def test_what_is_known_of_a_recipe_is_not_asked_again() -> None:
    one = race(size=2, rungs=2)
    one.join(0, "x", {}, one.rules)
    hand = one.lacking(0)
    one.learn("x", answer({"a": hand["a"]}, 0.5))
    one.join(1, "x", {}, one.rules)  # the same recipe
    assert one.lacking(0) == one.lacking(1) == {"b": hand["b"]}
    one.learn("x", answer(hand, 1.0))
    assert one.score(one._cells["x"], hand) == 0.75  # of two scores, the first counts
    assert one.climb() == [0, 1]


def test_the_next_cohort_climbs_meanwhile_and_is_reported_after_this_one() -> None:
    one = race(size=2, rungs=2)
    for number in range(2):
        one.join(number, f"r{number}", {}, one.rules)
    assert not one.may_join(ahead=False)
    assert one.may_join(ahead=True)
    for number in (2, 3):
        one.join(number, f"r{number}", {}, one.rules)
        one.learn(f"r{number}", answer(one.lacking(number), 0.5))
    assert not one.may_join(ahead=True)
    assert one.climb() == [2, 3]
    for number in (2, 3, 0, 1):
        one.learn(f"r{number}", answer(one.lacking(number), number))
    assert one.open[1].is_full
    assert one.climb() == [0, 1]
    assert one.open[1].is_closed
    assert one.close() is None
    for number in (0, 1):
        one.learn(f"r{number}", answer(one.lacking(number), number))
    assert one.climb() == []
    closed = [one.close(), one.close(), one.close()]
    assert [list(cohort.recipes) for cohort in closed if cohort is not None] == [[0, 1], [2, 3]]


def test_who_is_sure_to_go_on_does_not_wait_for_the_others() -> None:
    one = race(size=8, rungs=3)
    for number in range(8):
        one.join(number, f"r{number}", {}, one.rules)

    def climb(number: int, quality: float) -> list[int]:
        one.learn(f"r{number}", answer(one.lacking(number), quality))
        return one.climb()

    assert [climb(n, n / 10) for n in (1, 2, 3, 4)] == [[], [], [], []]
    assert climb(5, 0.5) == [5]  # three may yet come before it, and four go on
    assert climb(6, 0.6) == [6]
    assert climb(7, 0.7) == [7]
    assert [climb(n, n / 10) for n in (5, 6)] == [[], []]  # two of those that will have come here
    assert climb(0, 0.0) == [4]
    one.fail("r4")
    assert one.climb() == [6]
    assert climb(7, 0.7) == [7]


@pytest.mark.parametrize(("fail", "rungs"), [([], [2]), ([0, 2], [-1, 2, -1])])
def test_the_only_start_that_is_left_climbs_to_the_last_rung(
    fail: list[int], rungs: list[int]
) -> None:
    for fewest, expected in ((1, rungs), (2, [min(rung, 0) for rung in rungs])):
        one, rules = race(), Rules(len(rungs), Racing(first=4), fewest)
        for number, _ in enumerate(rungs):
            one.join(number, f"r{number}", {}, rules)
        for number in fail:
            one.fail(f"r{number}")
        waiting = [number for number, _ in enumerate(rungs) if number not in fail]
        while waiting:
            one.learn(f"r{waiting[0]}", answer(one.lacking(waiting[0]), 0.5))
            waiting = one.climb()
        closed = one.close()
        assert closed is not None
        assert [closed.standings[number].rung for number, _ in enumerate(rungs)] == expected


@pytest.mark.parametrize("starts", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_climbing_early_ends_as_if_all_had_waited(seed: int, starts: bool) -> None:
    luck = random.Random(seed)
    size = luck.choice([2, 3, 5, 8, 16, 17])
    keys = {"keep": luck.choice([0.2, 0.34, 0.5, 0.8, 0.99]), "rungs": luck.choice([1, 2, 4])}
    right = [luck.choice([0.1, 0.3, 0.5, 0.5, 0.9]) for _ in range(size)]
    fails_at = [luck.choice([0, 1, 2, 9, 9, 9, 9, 9]) for _ in range(size)]

    def standings(order: random.Random, *, waits: bool) -> dict[int, Standing]:
        one = race(size, **keys)
        for number in range(size):
            one.join(number, f"r{number}", {}, Rules(size, one.racing, 1 if starts else 2))
        waiting = list(range(size))
        while waiting:
            number = waiting.pop(order.randrange(len(waiting)))
            rung = one.open[0].reached[number]
            if rung >= fails_at[number]:
                one.fail(f"r{number}")
            else:
                quality = (right[number] + 7 * rung * number) % 1
                one.learn(f"r{number}", answer(one.lacking(number), quality))
            if not waits or not waiting:
                waiting += one.climb()
        closed = one.close()
        assert closed is not None
        return closed.standings

    patient = standings(random.Random(0), waits=True)
    for other in range(3):
        assert standings(random.Random(other), waits=False) == patient


def test_reliability_is_that_of_the_analysis_of_variance() -> None:
    generator = np.random.default_rng(0)
    candidates, examples = 0.3 * generator.normal(size=4000), generator.normal(size=40)
    rows = candidates[:, None] + examples + 0.5 * generator.normal(size=(4000, 40))
    one = Reliability()
    one.learn(rows.tolist())
    assert one.mean == pytest.approx((0.09, 0.25), rel=0.05)
    assert one.of(40) == pytest.approx(0.09 / (0.09 + 0.25 / 40), rel=0.02)


def test_what_cannot_be_squared_or_has_no_other_beside_it_teaches_nothing() -> None:
    one = Reliability()
    for rows in (
        [],
        [[0.0, 1.0]],
        [[0.0], [1.0]],
        [[0.0, -math.inf], [1.0, 0.0]],
        [[1e200, 0]] * 2,
    ):
        one.learn(rows)
    assert one.mean is None
    assert one.of(40) == 0.0


def test_more_is_asked_at_first_where_the_first_rung_ranks_by_noise_alone() -> None:
    one = race(size=4, rungs=1)
    for cohort in range(5):
        for number in range(4):
            one.join(4 * cohort + number, f"{cohort}.{number}", {}, one.rules)
            one.learn(f"{cohort}.{number}", answer(one.lacking(4 * cohort + number), 0.5))
        assert one.racing.first == 4
        one.climb()
        assert one.close() is not None
    assert one.racing.first == 8
    assert sum(map(len, one._deck.deal(one.racing.first, 1).examples.values())) == 8


def test_two_candidates_of_one_recipe_are_one_opinion_of_how_well_a_rung_ranks() -> None:
    found = []
    for recipes in ((0, 1, 2, 3), (0, 1, 1, 2, 3, 3)):
        one, luck = race(size=len(recipes), rungs=1), random.Random(0)
        for number, recipe in enumerate(recipes):
            one.join(number, f"r{recipe}", {}, one.rules)
        for recipe in range(4):
            asked = one.lacking(recipes.index(recipe))
            one.learn(
                f"r{recipe}", {t: {e: luck.random() for e in ids} for t, ids in asked.items()}
            )
        one.climb()
        assert one.close() is not None
        found.append(one.reliability.mean)
    assert found[0] is not None
    assert found[0] == found[1]
