"""What a search says of each cohort while it runs."""

from __future__ import annotations

from collections import Counter

from evomerge.search.racing.cohort import Cohort
from evomerge.search.racing.race import Race
from evomerge.types import count


def told(cohort: Cohort, race: Race, examples: int, spread: float | None) -> str:
    """What a cohort that has closed was asked, and how well its first examples rank by now.

    Args:
        examples: asked of the candidates of the search so far.
        spread: see `Optimizer.spread`.
    """
    rungs = Counter(count(cohort.hand.of_rung(rung)) for rung in cohort.reached.values())
    asked = ", ".join(f"{asked} of {number}" for asked, number in sorted(rungs.items()))
    first = count(cohort.hand.of_rung(0))
    strays = "" if spread is None else f"; spread {spread:.3f}"
    return (
        f"asked {asked}, {examples:,} examples so far; "
        f"reliability by {first} {race.reliability.of(first):.2f}{strays}"
    )
