"""Weighted sum of task vectors."""

from __future__ import annotations

from torch import Tensor

from evomerge.operators._consensus import plain_divisor, weighted_sum
from evomerge.operators._operator import Bound, operator


@operator(
    on="task_vectors",
    per_source={"weight": Bound(1.0)},
    textbook={"weight": 0.3},
    paper="Ilharco et al. 2023, arXiv:2212.04089",
)
def task_arithmetic(
    deltas_M: Tensor, *, weight: Tensor, lam: float = 1.0, normalize: bool = False
) -> Tensor:
    """λ Σ w_i τ_i.

    Args:
        deltas_M: (M, *shape) float32, source minus base.
        weight: (M,) any sign; a negative one unlearns.
        lam: scale of the sum.
        normalize: divide by Σ w_i (by 1 where that is below 1e-8 in magnitude).

    Returns:
        (*shape) float32, to be added to the base.

    Source: Ilharco et al. 2023, arXiv:2212.04089, section 2.
    """
    total = weighted_sum(deltas_M, weight)
    return total * (lam / plain_divisor(weight)) if normalize else total * lam
