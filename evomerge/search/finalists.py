"""Who is asked everything at the end of a stage that raced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evomerge.optimizers import Optimizer
from evomerge.types import Candidate, Proposal

# Below so many examples of the search, scoring several finalists in full costs more than the best
# of them is better: 0.617 against 0.615 with 40,000, 0.609 against 0.612 with 16,000.
ENOUGH_FOR_A_CHOICE = 40_000
_ESTIMATES = 4


def most_finalists(optimizer: Optimizer, examples: int) -> int:
    """How many are asked everything at most, after so many examples of the search.

    No candidate is, beside estimates: the one of hundreds that did best is the luckiest on
    examples that its full score would include.
    """
    return _ESTIMATES if optimizer.takes_start and examples >= ENOUGH_FOR_A_CHOICE else 1


def best_candidate(
    candidates: Sequence[Candidate], adjusted: Mapping[str, float]
) -> list[Proposal]:
    """The best candidate of a search without estimates; none if none was scored.

    Args:
        candidates: of the search.
        adjusted: digest of a recipe to how good it is, by the examples that it was asked.
    """
    raced = [c for c in candidates if c.recipe.digest in adjusted]
    if not raced:
        return []
    best = min(raced, key=lambda c: (-adjusted[c.recipe.digest], c.number))
    return [Proposal(f"candidate {best.number}", best.genome)]
