"""Spherical interpolation of two task vectors or weights, by tensor, row or column."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from evomerge.kernels.choices import AveragingSpace
from evomerge.kernels.measures import measures
from evomerge.kernels.stack import Merged, Stack, Tile
from evomerge.kernels.sums import weighted
from evomerge.operators import Bound, Floats, operator

_LEAST_NORM = 1e-7
# Below it sin θ is mostly rounding of the inner products. Near θ = 0 the straight line is as good
# as the arc; at θ = π no arc is distinguished.
_LEAST_SINE = 1e-6


@operator(
    on="either",
    per_source={"weight": Bound(1.0)},
    averages=True,
    paper_defaults={"weight": 1.0},
    paper="Shoemake 1985, doi:10.1145/325165.325242; as in mergekit",
    sources=2,
)
def nuslerp(
    x: Stack,
    *,
    weight: Floats,
    axis: Literal["row", "col"] | None = None,
    space: AveragingSpace = "task_vector",
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

        def by_row(tile: Tile) -> Tensor:
            products = _products(tile.values, 1).unsqueeze(2)
            return _blended(tile.values, _arc_weights(products, t), sign)

        return x.each_row(by_row)
    if axis == "col" and len(x.shape) > 1:
        measure = measures(x)
        products = measure.once(
            "columns", lambda: measure.total(lambda tile: _products(tile.values, 0), by_row=True)
        )
        factors = _arc_weights(products, t)
        return x.each_row(lambda tile: _blended(tile.values, factors, sign))
    gram = measures(x).gram()
    factors = _arc_weights(torch.stack([gram[0, 0], gram[0, 1], gram[1, 1]]), t)
    return weighted(x, [sign * float(factor) for factor in factors])


def _arc_weights(products: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """(...) twice: the factors of vectors a and b at the fraction ``t`` of the arc between them.

    sin((1 - t)θ) / sin θ and sin(tθ) / sin θ depend on θ² alone: an error of 1e-14 in the cosine is
    one of 1e-14 in the factors, however parallel the vectors are.

    Args:
        products: (3, ...) float64, |a|², a·b and |b|² of one or many pairs of vectors.
        t: 0 gives the first vector, 1 the second; others extrapolate.

    Source: Shoemake 1985, doi:10.1145/325165.325242; θ = 2 atan2(|â - b̂|, |â + b̂|) from Kahan.
    """
    norm_a, norm_b = (products[i].sqrt().clamp(min=_LEAST_NORM) for i in (0, 2))
    cosine = (products[1] / (norm_a * norm_b)).clamp(-1, 1)
    theta = 2 * torch.atan2((1 - cosine).sqrt(), (1 + cosine).sqrt())
    sine = theta.sin()
    straight = sine.abs() < _LEAST_SINE
    divisor = torch.where(straight, 1.0, sine)
    first = torch.where(straight, 1 - t, ((1 - t) * theta).sin() / divisor)
    second = torch.where(straight, t, (t * theta).sin() / divisor)
    return first, second


def _products(values: Tensor, axis: int) -> Tensor:
    """(3, ...) |a|², a·b and |b|² of the rows (axis 1) or columns (axis 0) of two matrices."""
    a, b = values.double().unbind()
    return torch.stack([(p * q).sum(axis) for p, q in ((a, a), (a, b), (b, b))])


def _blended(values: Tensor, factors: tuple[Tensor, Tensor], sign: float) -> Tensor:
    first, second = (factor.to(values.device, torch.float32) * sign for factor in factors)
    return values[0].mul_(first).add_(values[1].mul_(second))
