"""Children of piecewise constant coefficient matrices.

``S`` segments, ``K`` sources, ``C`` an individual's matrix: θ[i] = Σ_k C[segment(i), k] θ_k[i].
slerp(x, y; t) = a x + b y with numbers a and b, so that a child's matrix is made of its parents'
alone, and never of weights that were rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
GramsAt = Callable[[Sequence[int]], Floats]  # (n,) positions to (n, K, K)
Inner = tuple[float, float, float]  # ⟨x, x⟩, ⟨x, y⟩ and ⟨y, y⟩

_SAME = 1e-12  # far below what float32 weights can tell
_LEAST_SINE = 1e-6  # below, the arc is a straight line


class Matrix(NamedTuple):
    """An individual.

    Attributes:
        bounds: (S + 1,) elements, ascending from 0.
        rows: (S, K) float64.
    """

    bounds: NDArray[np.int64]
    rows: Floats

    def between(self, cuts: NDArray[np.int64]) -> Floats:
        """(n, K) the rows between n + 1 cuts, of which those of ``bounds`` are some."""
        found: Floats = self.rows[np.searchsorted(self.bounds, cuts[:-1], side="right") - 1]
        return found


class Part(NamedTuple):
    """A stretch of elements on which a child is a·first + b·second.

    Attributes:
        start, stop: elements; an empty part changes nothing.
        a, b: from `line` or `arc`.
    """

    start: int
    stop: int
    a: float
    b: float


def line(t: float) -> tuple[float, float]:
    """The weights of two models at fraction t of the straight line between them."""
    return 1 - t, t


def inner_products(first: Matrix, second: Matrix, start: int, stop: int, grams: GramsAt) -> Inner:
    """The inner products of two individuals on a stretch of elements.

    Args:
        start, stop: the elements that are one vector; zeros where there are none.
        grams: inner products of the sources up to a position.
    """
    inside = [np.clip(matrix.bounds, start, stop) for matrix in (first, second)]
    cuts = np.unique(np.concatenate(inside))
    if len(cuts) < 2:
        return 0.0, 0.0, 0.0
    grams_SKK = np.diff(grams([int(cut) for cut in cuts]), axis=0)
    x, y = first.between(cuts), second.between(cuts)

    def product(left: Floats, right: Floats) -> float:
        return math.fsum(np.einsum("sk,skl,sl->s", left, grams_SKK, right).tolist())

    return product(x, x), product(x, y), product(y, y)


def arc(inner: Inner, t: float) -> tuple[float, float]:
    """The weights of two vectors at fraction t of the arc between them; a line where it is none.

    Source: Shoemake 1985, doi:10.1145/325165.325242; M2N2, arXiv:2508.16204.
    """
    xx, xy, yy = inner
    lengths = math.sqrt(max(xx, 0.0) * max(yy, 0.0))
    if lengths == 0:
        return line(t)
    angle = math.acos(min(max(xy / lengths, -1.0), 1.0))
    sine = math.sin(angle)
    if sine <= _LEAST_SINE:
        return line(t)
    return math.sin((1 - t) * angle) / sine, math.sin(t * angle) / sine


def cross(first: Matrix, second: Matrix, parts: Sequence[Part]) -> Matrix:
    """The child; of a parent and its equal, that parent.

    Args:
        parts: from the first element to the last, without gaps.
    """
    if _equal(first, second):
        return first  # (1 - t) x + t x is not x to the last bit, and would be evaluated anew
    inner = [part.start for part in parts] + [part.stop for part in parts]
    cuts = np.unique(np.concatenate([first.bounds, second.bounds, np.array(inner, np.int64)]))
    x, y = first.between(cuts), second.between(cuts)
    rows = np.empty_like(x)
    for part in parts:
        here = (cuts[:-1] >= part.start) & (cuts[:-1] < part.stop)
        rows[here] = part.a * x[here] + part.b * y[here]
    return _joined(cuts, rows)


def _equal(first: Matrix, second: Matrix) -> bool:
    return np.array_equal(first.bounds, second.bounds) and np.array_equal(first.rows, second.rows)


def _joined(bounds: NDArray[np.int64], rows: Floats) -> Matrix:
    """The same matrix, neighbours that agree as one segment."""
    new = np.abs(np.diff(rows, axis=0)).max(1) > _SAME
    starts = np.concatenate([[0], 1 + np.flatnonzero(new)])
    return Matrix(np.append(bounds[starts], bounds[-1]), rows[starts])
