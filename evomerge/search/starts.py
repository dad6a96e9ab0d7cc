"""Points from which a search may start, tried before the optimizer's first candidate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from evomerge.search.budget import Asked, Budget
from evomerge.search.racing.settings import Racing
from evomerge.types import Evaluation, Proposal

# of so many points on these rungs; None: asked everything
Cost = Callable[[int, Racing | None], Asked]

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


def first_starts(
    given: Sequence[Proposal],
    own: Sequence[Proposal],
    budget: Budget,
    cost: Cost,
    depths: Sequence[Racing],
) -> Starts | None:
    """What a search tries first, as far as a quarter of its budget goes; None: nothing.

    As many of the points as it is enough for, on as many rungs as it is enough for; where not for
    two of them, the first of those that are given.

    Args:
        given: points that are tried before the others.
        own: the most promising first; none where a search is not to look for its start.
        depths: rungs on which points may race, fewer before more; none where they are asked all.
    """
    genomes = [point.genome for point in given]
    every = [*given, *(point for point in own if point.genome not in genomes)][:MOST_STARTS]
    least = depths[0] if depths else None
    size = len(every)
    while size > 1 and not _affords(budget, cost(size, least)):
        size -= 1
    points = every[:size] if size > 1 else given[:1]
    if not points:
        return None
    return Starts(points, _deepest({one: cost(len(points), one) for one in depths}, budget))


def _deepest(costs: Mapping[Racing, Asked], budget: Budget) -> Racing | None:
    """The last of these rungs for which a quarter of a budget is enough; else the first.

    The start is chosen once, and all that follows goes on from it. What examples take of a budget
    of time or tokens nobody knows: then it is the first, and only a single point, which costs as
    much as a baseline, is asked everything.

    Args:
        costs: what is asked on them, more and more.
    """
    known = budget.evaluations is not None or budget.examples is not None
    enough = [
        rungs
        for rungs, cost in costs.items()
        if _affords(budget, cost) and (known or cost.evaluations == 1)
    ]
    return enough[-1] if enough else next(iter(costs), None)


def _affords(budget: Budget, asked: Asked) -> bool:
    parts = Asked(_PART_OF_BUDGET * asked.evaluations, _PART_OF_BUDGET * asked.examples)
    return budget.affords(Asked(), parts)
