"""The front of a search: the models that no other one beats on every objective, and a few of them.

M objectives, N points, B resamples of the examples, E examples of a task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from evomerge.errors import RunError
from evomerge.scoring import Fitness
from evomerge.scoring.gains import Gains, gains
from evomerge.scoring.value import is_mean
from evomerge.types import Evaluation, TaskScores

SHOWN = 12  # a front of more points is thinned to so many
RESAMPLES = 200
SURELY = 0.9

Read = Callable[[str], Evaluation | None]  # a recipe's digest to what was scored
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Point:
    """A model that was scored on all search examples.

    Attributes:
        number, digest: of the candidate and of its recipe.
        value: its fitness.
        gains: by objective, of which more is better; empty where they are not known.
        shortfall: what it lacks of the floors.
        baseline: whether it is one.
    """

    number: int
    digest: str
    value: float
    gains: Gains
    shortfall: float = 0.0
    baseline: bool = False


@dataclass(frozen=True, slots=True)
class Front:
    """What is left of the points of a search.

    Attributes:
        compared: how many models that reach all floors were compared.
        non_dominated: how many of these no other one beats: none is as good on every objective
            and better on one.
        kept: these, less those that others beat on most resamples of the examples; the best
            fitness first.
        shown: those of them that the front is thinned to.
        reference: gains; the hypervolume is that of what lies above them.
        half_widths: by number, of those kept, half the width of the 95 % interval of each gain;
            0 of what does not depend on the choice of examples, or where that is not known.
    """

    compared: int
    non_dominated: int
    kept: tuple[Point, ...]
    shown: tuple[Point, ...]
    reference: Gains
    half_widths: Mapping[int, Gains]


def find_front(
    fitness: Fitness,
    points: Sequence[Point],
    read: Read,
    best_source: Mapping[str, float],
    seed: int,
) -> Front:
    """The front of these points; the same for the same points in any order.

    A point is left out that lacks something of the floors; of one recipe, and of equal
    gains, all points but one are. A point is dropped when more than 0.9 of 200 resamples have one
    that beats it: in each, every task's examples are drawn anew, with replacement, the same for all
    points. They are dropped one by one, and one that is dropped beats no other any more. The best
    on each objective and the best fitness of the non-dominated points are kept.

    Args:
        read: gives the search scores, example by example; asked for non-dominated points alone.
        best_source: the best source's score by task.
        seed: of the draws.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 8.
    """
    names = tuple(fitness.aims)
    able = _different([p for p in points if _counts(p)], names)
    if not able:
        return Front(0, 0, (), (), {}, {})
    reference = _reference(fitness, able)
    G_NM = _matrix(able, names)
    best = [point for point, on in zip(able, _non_dominated(G_NM), strict=True) if on]
    resamples = _Resamples(fitness, best_source, seed)
    G_NBM = np.stack([resamples.gains(_found(read, point)) for point in best])
    leaders = {0, *map(int, _matrix(best, names).argmax(axis=0))}  # of equals, the first
    left = _likely(G_NBM, leaders)
    kept = [best[i] for i in left]
    always = [position for position, i in enumerate(left) if i in leaders]
    # a mean of equal numbers need not be that number
    width_NM = np.where(np.ptp(G_NBM, axis=1) > 0, 1.96 * G_NBM.std(axis=1), 0.0)
    widths = {best[i].number: dict(zip(names, map(float, width_NM[i]), strict=True)) for i in left}
    shown = tuple(kept[i] for i in _thinned(_matrix(kept, names), always, reference, names))
    return Front(len(able), len(best), tuple(kept), shown, reference, widths)


def hypervolume(of: Sequence[Gains], reference: Gains) -> float:
    """The volume of all that is above the reference, and that one of these beats or equals.

    Source: Zitzler & Thiele 1998, PPSN V, 292.
    """
    import moocore  # half a second

    if not of:
        return 0.0
    G_NM = np.array([[one[name] for name in reference] for one in of])
    return float(moocore.hypervolume(G_NM, ref=list(reference.values()), maximise=True))


def _counts(point: Point) -> bool:
    return (
        bool(point.gains) and not point.shortfall and all(map(math.isfinite, point.gains.values()))
    )


def _different(points: Sequence[Point], names: Sequence[str]) -> list[Point]:
    """The best fitness first; of one recipe the first one, and of equal gains the best."""
    first: dict[str, Point] = {}
    for point in sorted(points, key=lambda p: p.number):
        first.setdefault(point.digest, point)
    by_gains: dict[tuple[float, ...], Point] = {}
    for point in sorted(first.values(), key=lambda p: (-p.value, p.number)):
        by_gains.setdefault(tuple(point.gains[name] for name in names), point)
    return list(by_gains.values())


def _matrix(points: Sequence[Point], names: Sequence[str]) -> Floats:
    return np.array([[point.gains[name] for name in names] for point in points])


def _non_dominated(G_NM: Floats) -> npt.NDArray[np.bool_]:
    """(N,) which of them none of the others beats; equal ones do not beat one another."""
    import moocore

    on: npt.NDArray[np.bool_] = moocore.is_nondominated(G_NM, maximise=True, keep_weakly=True)
    return on


def _likely(G_NBM: Floats, leaders: Collection[int]) -> list[int]:
    """Which points to keep: leaders, and those that are beaten on few enough resamples.

    The one that is beaten most often goes first, and from then on beats no other: of many that are
    alike some stay, though each of them is nearly always beaten by one of the rest.
    """
    left = list(range(len(G_NBM)))
    beaten_NB = np.zeros(G_NBM.shape[:2], np.int64)
    for i in left:
        beaten_NB += _beats(G_NBM, i)
    while True:
        often = {i: float((beaten_NB[i] > 0).mean()) for i in left if i not in leaders}
        worst = max(often, key=lambda i: (often[i], i), default=None)
        if worst is None or often[worst] <= SURELY:
            return left
        left.remove(worst)
        beaten_NB -= _beats(G_NBM, worst)


def _beats(G_NBM: Floats, one: int) -> npt.NDArray[np.bool_]:
    """(N, B) whom one point beats on which resamples."""
    better: npt.NDArray[np.bool_] = (G_NBM[one] >= G_NBM).all(axis=2)
    better &= (G_NBM[one] > G_NBM).any(axis=2)
    return better


def _found(read: Read, point: Point) -> Evaluation:
    found = read(point.digest)
    if found is None:
        raise RunError(f"candidate {point.number}: its search scores are not on record")
    return found


def _reference(fitness: Fitness, points: Sequence[Point]) -> dict[str, float]:
    """0 for scores that are never negative; else a tenth below the worst baseline."""
    reference = {}
    for name, objective in fitness.aims.items():
        values = [point.gains[name] for point in points]
        if objective.measure is None and min(values) >= 0:
            reference[name] = 0.0
            continue
        worst = min([p.gains[name] for p in points if p.baseline] or values)
        size = abs(worst) or max(values) - min(values) or 1.0
        reference[name] = worst - 0.1 * size
    return reference


def _thinned(
    G_NM: Floats, always: Sequence[int], reference: Gains, names: Sequence[str]
) -> list[int]:
    """Which points to show: one after the other, whichever adds the most hypervolume.

    Args:
        always: begun with.
    """
    if len(G_NM) <= SHOWN:
        return list(range(len(G_NM)))

    def volume(of: Sequence[int]) -> float:
        return hypervolume([dict(zip(names, G_NM[i], strict=True)) for i in of], reference)

    chosen, others = list(always), [i for i in range(len(G_NM)) if i not in always]
    while len(chosen) < SHOWN:
        most = max(others, key=lambda i: volume([*chosen, i]))  # of equals, the first
        others.remove(most)
        chosen.append(most)
    return sorted(chosen)


@dataclass(slots=True)
class _Resamples:
    """The same draws of examples for every model.

    A score that is no mean of its examples' scores is taken as it is, as is what was measured.
    """

    fitness: Fitness
    best_source: Mapping[str, float]
    seed: int
    _drawn: dict[tuple[int, int], npt.NDArray[np.int64]] = field(default_factory=dict)

    def gains(self, evaluation: Evaluation) -> Floats:
        """(B, M) the gains of a model on each resample."""
        scores = {
            name: self._scores(position, evaluation.tasks[name])
            for position, name in enumerate(self.fitness.tasks)
        }
        rows = []
        for b in range(RESAMPLES):
            tasks = {
                name: TaskScores(float(scores[name][b]), one.doc_ids, ())
                for name, one in evaluation.tasks.items()
            }
            of = gains(self.fitness, replace(evaluation, tasks=tasks), self.best_source)
            rows.append(list(of.values()))
        return np.array(rows)

    def _scores(self, position: int, of: TaskScores) -> Floats:
        """(B,) the score of one task on each resample."""
        E = len(of.example_scores)
        if not is_mean(of):
            return np.full(RESAMPLES, of.score)
        if (position, E) not in self._drawn:
            rng = np.random.default_rng([self.seed, position])
            self._drawn[position, E] = rng.integers(E, size=(RESAMPLES, E))
        drawn_BE = self._drawn[position, E]
        means: Floats = np.array(of.example_scores)[drawn_BE].mean(axis=1)
        return means
