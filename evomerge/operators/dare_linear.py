"""DARE: drop elements of the task vectors at random, rescale the rest, add up."""

from __future__ import annotations

from evomerge.kernels.choices import Rescale
from evomerge.kernels.stack import Merged, Stack
from evomerge.kernels.sums import summed
from evomerge.operators import Bound, Floats, operator
from evomerge.operators._modifiers import DENSITY
from evomerge.operators._sparsify import sparsified


@operator(
    on="task_vectors",
    per_source={"weight": Bound(1.0), "density": DENSITY},
    paper_defaults={"weight": 0.5, "density": 0.5},
    paper="Yu et al. 2024, arXiv:2311.03099",
    random=True,
)
def dare_linear(
    x: Stack,
    *,
    weight: Floats,
    density: Floats,
    lam: float = 1.0,
    normalize: bool = False,
    rescale: Rescale = "inverse",
) -> Merged:
    """λ Σ w_i m_i ⊙ τ_i / d_i with random masks m_i.

    Args:
        x: M task vectors.
        weight: (M,) any sign.
        density: (M,) probability of keeping an element, in [0, 1].
        lam: scale of the sum.
        normalize: divide by |Σ w_i| (by 1 where that is below 1e-8).
        rescale: ``inverse`` divides by the density (the paper), ``l1`` restores the sum of
            magnitudes (mergekit), ``none``.

    Source: Yu et al. 2024, arXiv:2311.03099, section 3.
    """
    x = sparsified(x, density, method="random", rescale=rescale)
    return summed(x, weight, lam=lam, normalize=normalize)
