"""Who is asked everything at the end of a stage that raced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evomerge.types import Candidate, Proposal

# Below so many examples of the search, scoring several finalists in full costs more than the best
# of them is better: 0.617 against 0.615 with 40,000, 0.609 against 0.612 with 16,000.
ENOUGH_FOR_A_CHOICE = 40_000
_ESTIMATES, _CANDIDATES = 4, 3


def most_finalists(examples: int) -> int:
    """How many are asked everything at most, after so many examples of the search."""
    return _ESTIMATES + _CANDIDATES if examples >= ENOUGH_FOR_A_CHOICE else 1


def finalists(
    estimates: Sequence[tuple[Proposal, str]],
    candidates: Sequence[Candidate],
    adjusted: Mapping[str, float],
) -> list[Proposal]:
    """The optimizer's estimates, and the best candidates that are other recipes.

    Args:
        estimates: each with the digest of its recipe; that of most trust first.
        candidates: of the search.
        adjusted: digest of a recipe to how good it is, by the examples that it was asked.
    """
    some = estimates[:_ESTIMATES]
    known = {digest for _, digest in some}
    others: list[Proposal] = []
    raced = [c for c in candidates if c.recipe.digest in adjusted]
    for one in sorted(raced, key=lambda c: (-adjusted[c.recipe.digest], c.number)):
        if one.recipe.digest not in known and len(others) < _CANDIDATES:
            known.add(one.recipe.digest)
            others.append(Proposal(f"candidate {one.number}", one.genome))
    return [*(proposal for proposal, _ in some), *others]
