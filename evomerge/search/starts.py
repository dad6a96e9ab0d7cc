"""Points from which a search may start, tried before the optimizer's first candidate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evomerge.search.budget import Asked, Budget
from evomerge.types import Evaluation, Proposal

MOST_STARTS = 24
_PART_OF_BUDGET = 4  # at most a quarter


class Starts:
    """Points that are all scored; the best of them is known then.

    Args:
        points: at least one; of equals, the earlier one is the best.

    Attributes:
        size: how many there are.
    """

    def __init__(self, points: Sequence[Proposal]) -> None:
        self.size = len(points)
        self._left = list(points)
        self._asked: dict[int, Proposal] = {}
        self._standings: dict[int, tuple[float, ...]] = {}

    def ask(self, number: int) -> Proposal | None:
        """The next point, for candidate ``number``; None after the last."""
        if not self._left:
            return None
        self._asked[number] = self._left.pop(0)
        return self._asked[number]

    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Learn how the point of candidate ``number`` did."""
        self._standings[number] = evaluation.rank

    @property
    def best(self) -> Proposal | None:
        """The best point; None until all have results."""
        if len(self._standings) < self.size:
            return None
        return self._asked[max(sorted(self._standings), key=lambda n: self._standings[n])]


def affordable(
    points: Sequence[Proposal], budget: Budget, cost: Callable[[int], Asked]
) -> Sequence[Proposal]:
    """As many of the first points as a quarter of a budget is enough for; none, or several.

    Args:
        points: the most promising first.
        cost: what so many of them are asked together.
    """
    for size in range(len(points), 1, -1):
        evaluations, examples, _ = cost(size)
        if budget.affords(Asked(), Asked(*(_PART_OF_BUDGET * n for n in (evaluations, examples)))):
            return points[:size]
    return ()
