"""DARE: drop elements of the task vectors at random, rescale the rest, add up."""

from __future__ import annotations

from torch import Tensor

from evomerge.operators._consensus import plain_divisor, weighted_sum
from evomerge.operators._masks import Rescale, drop_and_rescale
from evomerge.operators._operator import Bound, operator


@operator(
    on="task_vectors",
    per_source={"weight": Bound(1.0), "density": Bound(1.0, above=0.0, most=1.0)},
    textbook={"weight": 0.5, "density": 0.5},
    paper="Yu et al. 2024, arXiv:2311.03099",
)
def dare_linear(
    deltas_M: Tensor,
    *,
    weight: Tensor,
    density: Tensor,
    uniforms: Tensor,
    lam: float = 1.0,
    normalize: bool = False,
    rescale: Rescale = "inverse",
) -> Tensor:
    """λ Σ w_i m_i ⊙ τ_i / d_i with random masks m_i.

    Args:
        deltas_M: (M, *shape) float32, source minus base.
        weight: (M,) any sign.
        density: (M,) probability of keeping an element, in (0, 1].
        uniforms: (M, *shape) in [0, 1); an element stays where it is below the density.
        lam: scale of the sum.
        normalize: divide by Σ w_i (by 1 where that is below 1e-8 in magnitude).
        rescale: ``inverse`` divides by the density (the paper), ``l1`` restores the sum of
            magnitudes (mergekit), ``none``.

    Returns:
        (*shape) float32, to be added to the base.

    Source: Yu et al. 2024, arXiv:2311.03099, section 3.
    """
    total = weighted_sum(drop_and_rescale(deltas_M, density, uniforms, rescale), weight)
    return total * (lam / plain_divisor(weight)) if normalize else total * lam
