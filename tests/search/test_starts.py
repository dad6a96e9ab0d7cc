"""How many points a search tries first, and on how many examples they race."""

from __future__ import annotations

from typing import Any

import pytest

from evomerge.search.budget import Asked, Budget
from evomerge.search.racing.settings import Racing
from evomerge.search.starts import MOST_STARTS, first_starts
from evomerge.types import Genome, Proposal

DEPTHS = tuple(Racing(rungs=rungs) for rungs in (3, 4, 5))


def points(count: int, first: int = 0) -> list[Proposal]:
    return [Proposal(f"p{n}", Genome({"weight": n})) for n in range(first, first + count)]


def cost(size: int, racing: Racing | None) -> Asked:
    """Ten examples a point and rung, or a hundred of all."""
    return Asked(size, size * (100 if racing is None else 10 * racing.rungs))


def tried(given: int, own: int, **limits: Any) -> tuple[int, int | None] | None:
    """How many points, and on how many rungs."""
    found = first_starts(points(given, 100), points(own), Budget(**limits), cost, DEPTHS)
    if found is None:
        return None
    return found.size, found.racing.rungs if found.racing else None


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"examples": 4 * 8 * 50}, (8, 5)),
        ({"examples": 4 * 8 * 50 - 1}, (8, 4)),
        ({"examples": 4 * 8 * 30}, (8, 3)),
        ({"examples": 4 * 8 * 30 - 1}, (7, 3)),
        ({"examples": 4 * 2 * 30 - 1}, None),
        ({"evaluations": 4 * 3}, (3, 5)),  # whose examples cost nothing
        ({"evaluations": 7}, None),
        ({"seconds": 60}, (8, 3)),
        ({"gpu_hours": 1, "tokens": 1000}, (8, 3)),
        ({"seconds": 60, "evaluations": 4 * 8}, (8, 5)),
    ],
)
def test_a_quarter_of_the_budget_says_how_many_points_race_and_how_deep(
    limits: dict[str, Any], expected: tuple[int, int] | None
) -> None:
    assert tried(0, 8, **limits) == expected


def test_one_of_one_s_own_is_tried_whatever_the_budget() -> None:
    assert tried(1, 0, examples=1) == (1, 3)
    assert tried(1, 0, examples=4 * 50) == tried(1, 0, seconds=1) == (1, 5)
    assert tried(1, 8, examples=1) == (1, 3)
    assert tried(1, 8, examples=4 * 9 * 50) == (9, 5)
    assert tried(0, 0, seconds=1) is None


def test_given_points_come_first_each_is_tried_once_and_few_are_tried() -> None:
    given = [Proposal("mine", Genome({"weight": 3})), Proposal("last", Genome({"weight": 99}))]
    found = first_starts(given, points(40), Budget(seconds=1), cost, ())
    assert found is not None and found.racing is None
    labels: list[str] = []
    while (one := found.ask(len(labels))) is not None:
        labels.append(one.label)
    assert labels[:5] == ["mine", "last", "p0", "p1", "p2"]
    assert "p3" not in labels
    assert len(labels) == found.size == MOST_STARTS
