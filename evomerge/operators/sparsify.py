"""Weighted sum of task vectors of which only a part is kept."""

from __future__ import annotations

from typing import Literal

from evomerge.kernels.choices import Method, Norm
from evomerge.kernels.stack import Merged, Stack
from evomerge.kernels.sums import weighted
from evomerge.operators import Bound, Floats, operator
from evomerge.operators._modifiers import DENSITY, EPSILON, GAMMA
from evomerge.operators._sparsify import sparsified


@operator(
    on="either",
    per_source={"weight": Bound(1.0), "density": DENSITY, "gamma": GAMMA, "epsilon": EPSILON},
    paper_defaults={"weight": 0.3, "density": 0.2},
    paper="Yadav et al. 2023, arXiv:2306.01708; Yu et al. 2024, arXiv:2311.03099",
    random=True,
)
def sparsify(
    x: Stack,
    *,
    weight: Floats,
    density: Floats,
    gamma: Floats,
    epsilon: Floats,
    lam: float = 1.0,
    method: Method = "magnitude",
    rescale: Literal["none", "inverse"] | Norm = "none",
) -> Merged:
    """λ Σ w_i τ̃_i, with τ̃_i the sparsified τ_i.

    Every operator on task vectors takes the same step first if given ``sparsify_density``.
    Without a base the tensors given are taken for task vectors.

    Args:
        x: M task vectors.
        weight: (M,) any sign.
        density: (M,) fraction of each that is kept, in [0, 1].
        lam: scale of the sum.
        method: what is kept: the largest ``magnitude``, a ``random`` part, a part by rank
            (``della``), the largest without outliers (``breadcrumbs``).
        rescale: ``inverse`` divides by the probability of being kept; ``l1``, ``l2`` and
            ``linf`` restore a norm.
        gamma: (M,) fraction dropped as outliers, for ``breadcrumbs``.
        epsilon: (M,) half the spread of probabilities, for ``della``.

    Source: Yadav et al. 2023, arXiv:2306.01708; Yu et al. 2024, arXiv:2311.03099; Deep et al.
    2024, arXiv:2406.11617; Davari and Belilovsky 2024, arXiv:2312.06795.
    """
    x = sparsified(x, density, method=method, rescale=rescale, gamma=gamma, epsilon=epsilon)
    return weighted(x, weight, factor=lam)
