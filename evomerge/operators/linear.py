"""Weighted average of weights, the model soup."""

from __future__ import annotations

from evomerge.kernels.consensus import plain_divisor
from evomerge.kernels.stack import Merged, Stack
from evomerge.kernels.sums import weighted
from evomerge.operators import Bound, Floats, operator


@operator(
    on="weights",
    per_source={"weight": Bound(1.0)},
    factor="weight",
    paper_defaults={"weight": 1.0},
    paper="Wortsman et al. 2022, arXiv:2203.05482",
)
def linear(x: Stack, *, weight: Floats, normalize: bool = True) -> Merged:
    """Σ w_i W_i, divided by Σ w_i if asked.

    Args:
        x: M weights.
        weight: (M,) any sign; a negative one extrapolates.
        normalize: divide by Σ w_i (by 1 where all w_i are 0); refused where they add up to 0.

    Source: Wortsman et al. 2022, arXiv:2203.05482.
    """
    divisor = plain_divisor(weight) if normalize else 1.0
    return weighted(x, weight, divisor=divisor)
