"""Individuals as coefficients of the sources, constant on segments of elements.

``S`` segments, ``K`` sources, ``C`` coefficients: θ[i] = Σ_k C[segment(i), k] θ_k[i]. As
slerp(x, y; t) = a x + b y with numbers a and b, a child's coefficients are made of its parents'
alone, and never of weights that were rounded.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evomerge.kernels.loops import compiled
from evomerge.spaces._crossing import InnerProducts, MixedSpan
from evomerge.types import Genome

Floats = NDArray[np.float64]
Positions = NDArray[np.int64]
GramsAt = Callable[[Positions], Floats]  # (n,) to (n, K, K)

_SAME = 1e-12  # far below what float32 weights can tell
_REMEMBERED = 256  # genomes of some tens of kilobytes, and their coefficients


class Coefficients(NamedTuple):
    """An individual: a row of K coefficients for each segment.

    Attributes:
        bounds: (S + 1,) elements, ascending from 0.
        rows: (S, K) float64.
    """

    bounds: Positions
    rows: Floats


class CoefficientCache:
    """Coefficients of the latest genomes, by identity: JSON lists take long to read again."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, tuple[Genome, Coefficients]] = OrderedDict()

    def keep(self, genome: Genome, coefficients: Coefficients) -> None:
        """Remember the coefficients of this genome object; an equal one is not recognised."""
        self._known[id(genome)] = genome, coefficients  # the genome, too, lest its id be another's
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def of(self, genome: Genome) -> Coefficients:
        """The coefficients of a genome that has the genes ``bounds`` and ``rows``."""
        if id(genome) not in self._known:
            bounds, rows = genome.genes["bounds"], genome.genes["rows"]
            self.keep(genome, Coefficients(np.array(bounds, np.int64), np.array(rows, np.float64)))
        self._known.move_to_end(id(genome))
        return self._known[id(genome)][1]


def inner_products(
    first: Coefficients, second: Coefficients, start: int, stop: int, grams: GramsAt
) -> InnerProducts:
    """⟨x, x⟩, ⟨x, y⟩ and ⟨y, y⟩ of two individuals on the elements from start to stop.

    Args:
        grams: inner products of the sources up to positions.
    """
    assert 0 <= start <= stop <= first.bounds[-1] == second.bounds[-1]
    cuts = _cuts(first.bounds, second.bounds, start, stop)
    if len(cuts) < 2:
        return 0.0, 0.0, 0.0
    sums: InnerProducts = _inner_products(*first, *second, cuts, grams(cuts))
    return sums


def cross(first: Coefficients, second: Coefficients, spans: Sequence[MixedSpan]) -> Coefficients:
    """The child of two individuals; where they are equal, the first of them.

    A segment whose row agrees with that of the one before becomes part of it, whose row stays.

    Args:
        spans: from the first element to the last, without gaps.
    """
    if _equal(first, second):
        return first  # (1 - t) x + t x is not x to the last bit, and would be evaluated again
    assert first.bounds[-1] == second.bounds[-1] == spans[-1].stop
    stops = np.array([span.stop for span in spans], np.int64)
    weights = np.array([span.weights for span in spans], np.float64)
    return Coefficients(*_cross(*first, *second, stops, weights))


def _equal(first: Coefficients, second: Coefficients) -> bool:
    return np.array_equal(first.bounds, second.bounds) and np.array_equal(first.rows, second.rows)


# x has S segments and y T, of K sources; neither loop looks whether their ends are the same


@compiled
def _cuts(bounds_x: Any, bounds_y: Any, start: int, stop: int) -> Any:
    """(n,) from start to stop, and the bounds of both in between, each once."""
    cuts = np.empty(bounds_x.size + bounds_y.size + 2, np.int64)
    cuts[0] = start
    count, i, j = 1, 0, 0
    while cuts[count - 1] < stop:
        last = cuts[count - 1]
        while bounds_x[i] <= last:
            i += 1
        while bounds_y[j] <= last:
            j += 1
        cuts[count] = min(bounds_x[i], bounds_y[j], stop)
        count += 1
    return cuts[:count].copy()


@compiled
def _inner_products(
    bounds_x: Any, rows_SK: Any, bounds_y: Any, rows_TK: Any, cuts: Any, grams_nKK: Any
) -> Any:
    """The sums over what lies between n cuts."""
    sources = rows_SK.shape[1]
    xx, xy, yy = 0.0, 0.0, 0.0
    i, j = 0, 0
    for n in range(cuts.size - 1):
        while bounds_x[i + 1] <= cuts[n]:
            i += 1
        while bounds_y[j + 1] <= cuts[n]:
            j += 1
        for k in range(sources):
            for m in range(sources):
                gram = grams_nKK[n + 1, k, m] - grams_nKK[n, k, m]
                xx += rows_SK[i, k] * gram * rows_SK[i, m]
                xy += rows_SK[i, k] * gram * rows_TK[j, m]
                yy += rows_TK[j, k] * gram * rows_TK[j, m]
    return xx, xy, yy


@compiled
def _cross(
    bounds_x: Any, rows_SK: Any, bounds_y: Any, rows_TK: Any, stops: Any, weights: Any
) -> Any:
    """The child's bounds and rows, of P spans that end at stops and have (P, 2) weights."""
    most, sources = rows_SK.shape[0] + rows_TK.shape[0] + stops.size, rows_SK.shape[1]
    bounds, rows = np.zeros(most + 1, np.int64), np.empty((most, sources))
    count, i, j, span = 0, 0, 0, 0
    low = 0
    while low < bounds_x[-1]:
        while bounds_x[i + 1] <= low:
            i += 1
        while bounds_y[j + 1] <= low:
            j += 1
        while stops[span] <= low:
            span += 1
        agrees = count > 0
        for k in range(sources):
            value = weights[span, 0] * rows_SK[i, k] + weights[span, 1] * rows_TK[j, k]
            rows[count, k] = value
            agrees = agrees and abs(value - rows[count - 1, k]) <= _SAME
        if not agrees:
            count += 1
        low = min(bounds_x[i + 1], bounds_y[j + 1], stops[span])
        bounds[count] = low
    return bounds[: count + 1].copy(), rows[:count].copy()
