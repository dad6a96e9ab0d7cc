from __future__ import annotations

from itertools import pairwise

import pytest
from pydantic import ValidationError

from evomerge.scoring import Fitness, Shorten


def test_below_the_floor_the_score_alone_counts() -> None:
    shorten = Shorten(within=0.25)
    assert shorten.preference(0.59, 0.8, depth=1) == 0.59
    assert shorten.preference(float("-inf"), 0.8, depth=1) == float("-inf")


def test_at_the_floor_the_blocks_count() -> None:
    assert Shorten(within=0.25).preference(0.75, 1.0, depth=3) == 0.75 + 1 / 4
    assert Shorten(within=0).preference(0.5, 0.5, depth=1) == 1.0


def test_a_negative_score_may_fall_by_its_share_too() -> None:
    shorten = Shorten(within=0.5)
    assert shorten.preference(-3.0, -2.0, depth=1) == -3.0 + 0.5
    assert shorten.preference(-3.1, -2.0, depth=1) == -3.1


def test_good_enough_comes_first_then_fewer_blocks_then_the_score() -> None:
    """Worst first: score and depth."""
    order = [(0.1, 2), (0.94, 1), (0.95, 9), (1.0, 9), (50.0, 9), (0.95, 8), (0.96, 8), (0.95, 2)]
    preferences = [Shorten(within=0.05).preference(score, 1.0, depth) for score, depth in order]
    assert all(one < two for one, two in pairwise(preferences))


def test_what_is_preferred_does_not_change_scores() -> None:
    plain = Fitness.model_validate({"tasks": ["x"]})
    short = Fitness.model_validate({"tasks": ["x"], "shorten": {"within": 0.05}})
    assert short.digest == plain.digest


@pytest.mark.parametrize("within", [-0.1, 1.0, None])
def test_all_of_a_score_cannot_be_lost(within: float | None) -> None:
    with pytest.raises(ValidationError):
        Fitness.model_validate({"tasks": ["x"], "shorten": {"within": within}})
