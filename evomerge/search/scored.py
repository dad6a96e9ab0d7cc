"""What a store knows of models, objective by objective, and their front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evomerge.scoring import Fitness
from evomerge.scoring.gains import weighed
from evomerge.scoring.value import fitness_value
from evomerge.search.front import Front, Point, find_front
from evomerge.search.selection import references, source_gains
from evomerge.store import Store
from evomerge.types import Candidate, Split


@dataclass(frozen=True, slots=True)
class Scored:
    """Models that were asked all examples of a split.

    Attributes:
        points: by the number of the first candidate with the model's recipe.
        best_source: the best source's score by task.
    """

    points: Mapping[int, Point]
    best_source: Mapping[str, float]


def scored(store: Store, fitness: Fitness, candidates: Sequence[Candidate], split: Split) -> Scored:
    """What was scored of these candidates; nothing until the sources of all floors were."""
    sources = [one for one in candidates if one.role == "source"]
    found = {c.number: store.evaluation(c.recipe.digest, split) for c in sources}
    known = {number: one for number, one in found.items() if one is not None}
    best, of_sources = references(sources, known), source_gains(fitness, sources, known)
    if {one.source for one in fitness.floors.values()} - {None} - of_sources.keys():
        return Scored({}, best)
    first: dict[str, Candidate] = {}
    for candidate in candidates:
        first.setdefault(candidate.recipe.digest, candidate)
    points = {}
    for digest, evaluation in store.evaluations(split):
        if evaluation.status == "done" and evaluation.tasks and digest in first:
            one, of = first[digest], weighed(fitness, evaluation, best, of_sources)
            points[one.number] = Point(
                number=one.number,
                digest=digest,
                value=fitness_value(fitness, evaluation.tasks, best),
                gains=of.objectives,
                shortfall=of.shortfall,
                baseline=one.kind == "baseline",
            )
    return Scored(dict(sorted(points.items())), best)


def front_of(store: Store, fitness: Fitness, of: Scored, seed: int) -> Front:
    """The front of what was scored on all search examples.

    Args:
        seed: of the resamples of examples.
    """
    points = [one for one in of.points.values() if one.gains.keys() == fitness.aims.keys()]
    return find_front(fitness, points, store.evaluation, of.best_source, seed)
