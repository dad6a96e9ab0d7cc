"""Weighted sum of task vectors reduced to signs times one number."""

from __future__ import annotations

from evomerge.kernels.choices import Scope
from evomerge.kernels.stack import Merged, Stack
from evomerge.kernels.sums import weighted
from evomerge.operators import Bound, Floats, operator
from evomerge.operators._quantize import signs_times_deviation


@operator(
    on="either",
    per_source={
        "weight": Bound(1.0),
        "density": Bound(0.2, above=0.0, most=1.0),
        "alpha": Bound(1.0, above=0.0),
    },
    paper_defaults={"weight": 0.3, "density": 0.2, "alpha": 1.0},
    paper="Yadav et al. 2023, arXiv:2311.13171",
)
def compeft(
    x: Stack,
    *,
    weight: Floats,
    density: Floats,
    alpha: Floats,
    lam: float = 1.0,
    scope: Scope = "tensor",
) -> Merged:
    """λ Σ w_i τ̃_i, with τ̃_i = α_i σ_i sign(τ_i) for the largest magnitudes, else 0.

    σ_i is the standard deviation of τ_i before anything is dropped. Every operator on task
    vectors takes the same step first if given ``compeft_density``. Without a base the tensors
    given are taken for task vectors.

    Args:
        x: M task vectors.
        weight: (M,) any sign.
        density: (M,) fraction of each that is kept, in (0, 1].
        alpha: (M,) multiples of the standard deviation, above 0.
        lam: scale of the sum.
        scope: over what the deviation and the largest are taken: each ``tensor``, or the whole
            model (``global``, as published).

    Source: ComPEFT, Yadav et al. 2023, arXiv:2311.13171, Algorithm 1.
    """
    quantized = signs_times_deviation(x, density, alpha, scope)
    return weighted(quantized, weight, factor=lam)
