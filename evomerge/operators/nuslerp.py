"""Spherical interpolation of two task vectors or weights, by tensor, row or column."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from evomerge.kernels.choices import Space
from evomerge.kernels.consensus import weighted_sum
from evomerge.kernels.measures import measures
from evomerge.kernels.stack import Merged, Stack, Tile
from evomerge.operators._arc import Products, arc_weights
from evomerge.operators._bound import Bound, Floats
from evomerge.operators._operator import operator


@operator(
    on="either",
    per_source={"weight": Bound(1.0)},
    paper_defaults={"weight": 1.0},
    paper="Shoemake 1985, doi:10.1145/325165.325242; as in mergekit",
    sources=2,
)
def nuslerp(
    x: Stack,
    *,
    weight: Floats,
    axis: Literal["row", "col"] | None = None,
    space: Space = "task_vector",
) -> Merged:
    """sin((1 - t)θ)/sin θ · a + sin(tθ)/sin θ · b with t = w_2 / (w_1 + w_2).

    θ is the angle between a and b; where they are parallel the straight line is taken.

    Args:
        x: two task vectors, or two weights.
        weight: (2,) any sign; t is 0.5 where their sum is below 1e-6 in magnitude. Task vectors
            whose weights add up to less than 0 are subtracted.
        axis: what a vector is: the whole tensor (null), each ``row`` W[i, :] or each column
            W[:, j] (``col``). mergekit's ``nuslerp_row_wise`` interpolates columns.
        space: whether task vectors are interpolated, if there is a base, or weights.

    Source: Shoemake 1985, doi:10.1145/325165.325242; mergekit's ``nuslerp``.
    """
    total = sum(weight)
    t = 0.5 if abs(total) < 1e-6 else weight[1] / total
    sign = -1.0 if x.deltas and total <= -1e-6 else 1.0
    if axis == "row" and len(x.shape) > 1:
        return x.each_row(lambda tile: _blended(tile.values, arc_weights(_rows(tile), t), sign))
    if axis == "col" and len(x.shape) > 1:
        measure = measures(x)
        sums = measure.once("columns", lambda: measure.total(_columns, by_row=True))
        factors = arc_weights(Products(*sums), t)
        return x.each_row(lambda tile: _blended(tile.values, factors, sign))
    gram = measures(x).gram()
    factors = arc_weights(Products(gram[0, 0], gram[0, 1], gram[1, 1]), t)
    flat = [sign * float(factor) for factor in factors]
    return x.each(lambda tile: weighted_sum(tile.values, flat))


def _rows(tile: Tile) -> Products:
    """(r, 1) the products of each row."""
    a, b = tile.values.double().unbind()
    return Products(*((p * q).sum(1, keepdim=True) for p, q in ((a, a), (a, b), (b, b))))


def _columns(tile: Tile) -> Tensor:
    """(3, c) the products of the columns, of this tile's rows."""
    a, b = tile.values.double().unbind()
    return torch.stack([(p * q).sum(0) for p, q in ((a, a), (a, b), (b, b))])


def _blended(values: Tensor, factors: tuple[Tensor, Tensor], sign: float) -> Tensor:
    first, second = (factor.to(values.device, torch.float32) * sign for factor in factors)
    return values[0].mul_(first).add_(values[1].mul_(second))
