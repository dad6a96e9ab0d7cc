"""DELLA without the election: drop elements at random, small ones more often, and add up."""

from __future__ import annotations

from evomerge.kernels.choices import Rescale
from evomerge.kernels.stack import Merged, Stack
from evomerge.kernels.sums import summed
from evomerge.operators import Bound, Floats, operator
from evomerge.operators._modifiers import DENSITY, EPSILON
from evomerge.operators._sparsify import sparsified


@operator(
    on="task_vectors",
    per_source={"weight": Bound(1.0), "density": DENSITY, "epsilon": EPSILON},
    paper_defaults={"weight": 0.5, "density": 0.7, "epsilon": 0.07, "lam": 1.1},
    paper="Deep et al. 2024, arXiv:2406.11617",
    random=True,
)
def della_linear(
    x: Stack,
    *,
    weight: Floats,
    density: Floats,
    epsilon: Floats,
    lam: float = 1.0,
    normalize: bool = False,
    rescale: Rescale = "inverse",
) -> Merged:
    """λ Σ w_i m_i ⊙ τ_i / p_i with random masks m_i whose probabilities p_i grow with the rank.

    Args:
        x: M task vectors.
        weight: (M,) any sign.
        density: (M,) mean probability of keeping an element, in [0, 1].
        epsilon: (M,) half the spread of the probabilities, as in ``della``.
        lam: scale of the sum.
        normalize: divide by |Σ w_i| (by 1 where that is below 1e-8).
        rescale: as in ``della``.

    Raises:
        OperatorError: density and epsilon leave (0, 1).

    Source: Deep et al. 2024, arXiv:2406.11617.
    """
    x = sparsified(x, density, method="della", rescale=rescale, epsilon=epsilon)
    return summed(x, weight, lam=lam, normalize=normalize)
