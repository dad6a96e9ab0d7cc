"""What baselines and earlier stages show, before the first candidate of a stage is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from evomerge.scoring import Fitness, fitness_value, shares
from evomerge.search.selection import references
from evomerge.types import Candidate, Evaluation, Portion


class Shown(NamedTuple):
    """What they show of the examples and of the sources.

    Attributes:
        examples: all that the search may ask.
        shares: of the tasks in a candidate's score.
        best_first: the names of the sources, winners of earlier stages among them, by how they
            did alone.
        seed: of the fitness.
    """

    examples: Portion
    shares: Mapping[str, float]
    best_first: tuple[str, ...]
    seed: int


def shown(
    fitness: Fitness,
    examples: Portion,
    candidates: Sequence[Candidate],
    results: Mapping[int, Evaluation],
    winners: Sequence[Candidate],
) -> Shown:
    """What the baselines among the candidates show, and the winners of earlier stages.

    Args:
        examples: all that the search may ask.
        results: by number.
    """
    best = references(candidates, results)
    values = {
        next(iter(one.recipe.sources)): fitness_value(fitness, results[one.number].tasks, best)
        for one in candidates
        if one.role == "source" and one.number in results
    }
    scored = {one.stage: results[one.number].value for one in winners}
    values |= {name: value for name, value in scored.items() if value is not None}
    return Shown(
        examples,
        shares(fitness, best),
        tuple(sorted(values, key=lambda name: -values[name])),
        fitness.seed,
    )
