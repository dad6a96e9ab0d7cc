"""Weighted sum of task vectors."""

from __future__ import annotations

from evomerge.kernels.stack import Merged, Stack
from evomerge.kernels.sums import summed
from evomerge.operators import Bound, Floats, operator


@operator(
    on="task_vectors",
    per_source={"weight": Bound(1.0)},
    paper_defaults={"weight": 0.3},
    paper="Ilharco et al. 2023, arXiv:2212.04089",
)
def task_arithmetic(
    x: Stack, *, weight: Floats, lam: float = 1.0, normalize: bool = False
) -> Merged:
    """λ Σ w_i τ_i.

    Args:
        x: M task vectors.
        weight: (M,) any sign; a negative one unlearns.
        lam: scale of the sum.
        normalize: divide by |Σ w_i| (by 1 where that is below 1e-8).

    Source: Ilharco et al. 2023, arXiv:2212.04089, section 2.
    """
    return summed(x, weight, lam=lam, normalize=normalize)
