"""What each cohort is dealt."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from evomerge.search.racing.deck import Deck, block_sizes

EXAMPLES = {"a": tuple(range(100, 150)), "b": tuple(range(7)), "c": tuple(range(0, 60, 2))}
SHARES = {"a": 2.0, "b": 1.0, "c": 1.0}


@pytest.mark.parametrize(
    ("first", "shares", "sizes"),
    [
        (40, {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, [10, 10, 10, 10]),
        (10, {"a": 1.0, "b": 1.0, "c": 1.0}, [4, 3, 3]),
        (10, {"a": 2.0, "b": 1.0, "c": 1.0}, [5, 3, 2]),
        (10, {"a": 1.0, "b": 1000.0}, [1, 9]),
        (3, {"a": 1.0, "b": 1000.0, "c": 0.1}, [1, 1, 1]),
    ],
)
def test_a_block_has_every_task_in_proportion_and_at_least_once(
    first: int, shares: dict[str, float], sizes: list[int]
) -> None:
    assert list(block_sizes(first, shares).values()) == sizes


def test_fewer_examples_than_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="2 examples cannot have one of each of 3 tasks"):
        block_sizes(2, SHARES)


def test_every_example_is_dealt_equally_often_and_none_twice_in_a_cohort() -> None:
    deck, dealt = Deck(EXAMPLES, SHARES, (0, 7)), Counter[tuple[str, int]]()
    for _ in range(60):
        hand = deck.deal(8, 4)
        for task, ids in hand.examples.items():
            assert len(set(ids)) == len(ids) == min(hand.block[task] * 4, len(EXAMPLES[task]))
            dealt.update((task, example) for example in ids)
        for task in EXAMPLES:
            counts = [dealt[task, example] for example in EXAMPLES[task]]
            assert max(counts) - min(counts) <= 1


def test_a_rung_holds_those_below_it_and_ends_where_a_task_does() -> None:
    hand = Deck(EXAMPLES, SHARES, (0, 7)).deal(8, 4)
    rungs = [hand.of_rung(rung) for rung in range(3)]
    assert [[len(ids) for ids in rung.values()] for rung in rungs] == [
        [4, 2, 2],
        [8, 4, 4],
        [16, 7, 8],
    ]
    for lower, upper in pairwise(rungs):
        assert all(set(lower[task]) < set(upper[task]) for task in EXAMPLES)
        assert all(list(ids) == sorted(ids) for ids in upper.values())


def test_the_seeds_and_what_was_dealt_before_say_what_is_dealt() -> None:
    first, same, other = (Deck(EXAMPLES, SHARES, seeds) for seeds in ((0, 7), (0, 7), (0, 8)))
    hands = [[deck.deal(8, 4) for _ in range(3)] for deck in (first, same, other)]
    assert hands[0] == hands[1]
    assert hands[0][0] != hands[2][0]
    assert hands[0][0] != hands[0][1]
