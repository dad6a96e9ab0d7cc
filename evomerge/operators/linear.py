"""Weighted average of weights, the model soup."""

from __future__ import annotations

from torch import Tensor

from evomerge.operators._consensus import plain_divisor, weighted_sum
from evomerge.operators._operator import Bound, operator


@operator(
    on="weights",
    per_source={"weight": Bound(1.0)},
    textbook={"weight": 1.0},
    paper="Wortsman et al. 2022, arXiv:2203.05482",
)
def linear(weights_M: Tensor, *, weight: Tensor, normalize: bool = True) -> Tensor:
    """Σ w_i W_i, divided by Σ w_i if asked.

    Args:
        weights_M: (M, *shape) float32.
        weight: (M,) any sign; a negative one extrapolates.
        normalize: divide by Σ w_i (by 1 where that is below 1e-8 in magnitude).

    Returns:
        (*shape) float32.

    Source: Wortsman et al. 2022, arXiv:2203.05482.
    """
    total = weighted_sum(weights_M, weight)
    return total / plain_divisor(weight) if normalize else total
