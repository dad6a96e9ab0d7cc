"""Points from which a search may start, tried before the optimizer's first candidate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from evomerge.search.budget import Asked, Budget
from evomerge.search.racing.settings import Racing
from evomerge.types import Evaluation, Proposal

Cost = Callable[[int], Asked]  # of so many points

MOST_STARTS = 24
_PART_OF_BUDGET = 4  # at most a quarter


class Starts:
    """Points that are all scored; the best of them is known then.

    Args:
        points: at least one; of equals, the earlier one is the best.
        racing: the rungs on which they race; None where they are asked everything.

    Attributes:
        size: how many there are.
    """

    def __init__(self, points: Sequence[Proposal], racing: Racing | None) -> None:
        self.size, self.racing = len(points), racing
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


def affordable(points: Sequence[Proposal], budget: Budget, cost: Cost) -> Sequence[Proposal]:
    """As many of the first points as a quarter of a budget is enough for; none, or several.

    Args:
        points: the most promising first.
    """
    for size in range(len(points), 1, -1):
        if _affords(budget, cost(size)):
            return points[:size]
    return ()


def deepest(costs: Mapping[Racing, Asked], budget: Budget) -> Racing:
    """The last of these rungs for which a quarter of a budget is enough; else the first.

    The start is chosen once, and all that follows goes on from it.

    Args:
        costs: what is asked on them, more and more.
    """
    enough = [rungs for rungs, cost in costs.items() if _affords(budget, cost)]
    return enough[-1] if enough else next(iter(costs))


def _affords(budget: Budget, asked: Asked) -> bool:
    parts = Asked(_PART_OF_BUDGET * asked.evaluations, _PART_OF_BUDGET * asked.examples)
    return budget.affords(Asked(), parts)
