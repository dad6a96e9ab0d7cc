"""The middle of a task vector: without its outliers and without its small elements."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from evomerge.kernels.consensus import kept_count
from evomerge.kernels.row_ranks import ranks
from evomerge.kernels.stack import Stack, Tile
from evomerge.operators._sparsify import banded


def without_outliers(x: Stack, density: Sequence[float], gamma: float, *, per_row: bool) -> Stack:
    """The stack without the ⌊γn⌋ largest magnitudes; of the others, the next ⌊dn⌋ are kept.

    Args:
        density: (M,) fraction kept, in (0, 1]; the rest may be fewer than γn.
        gamma: fraction dropped as outliers, in [0, 1).
        per_row: whether the largest are counted in each row or in the tensor.
    """
    if not per_row:
        return banded(x, density, [gamma] * x.count)
    columns = x.row_length
    kept = [kept_count(d, columns) for d in density]
    top = [min(int(gamma * columns + 1e-6), columns - k) for k in kept]

    def kernel(tile: Tile) -> Tensor:
        for values, k, t in zip(tile.values, kept, top, strict=True):
            if k < columns:
                values.mul_(_band(ranks(values), columns - t - k, k))
        return tile.values

    return x if all(k == columns for k in kept) else x.changed(kernel, by_row=True)


def _band(rank: Tensor, first: int, count: int) -> Tensor:
    """1 for the ranks first ... first + count - 1, else 0; overwrites ``rank``."""
    middle, half = first + (count - 1) / 2, count / 2
    beyond = rank.sub_(middle).abs_().sub_(half)
    return beyond.relu_().sign_().neg_().add_(1)
