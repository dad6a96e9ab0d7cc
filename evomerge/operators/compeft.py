"""Weighted sum of task vectors reduced to signs times one number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from evomerge.kernels.choices import Scope
from evomerge.kernels.consensus import kept_count
from evomerge.kernels.cuts import keep
from evomerge.kernels.measures import Measures, magnitude, measures
from evomerge.kernels.stack import Merged, Stack, Tile
from evomerge.kernels.sums import weighted
from evomerge.operators import Bound, Floats, operator


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


def signs_times_deviation(
    x: Stack, density: Sequence[float], alpha: Sequence[float], scope: Scope
) -> Stack:
    """α σ sign(τ) for the largest magnitudes, zero for the others.

    σ and the ranks are taken over the scope, σ with the zeros and before trimming. A density of 0
    leaves the source as it is.
    """
    measure = measures(x, scope)
    cuts = measure.cuts(magnitude, [kept_count(d, measure.size) for d in density], "magnitude")
    level = [a * s for a, s in zip(alpha, _deviations(measure), strict=True)]

    def kernel(tile: Tile) -> Tensor:
        for i, values in enumerate(tile.values):
            if density[i]:
                values.copy_(keep(values, cuts[i], tile.start)).sign_().mul_(level[i])
        return tile.values

    return x.changed(kernel)


def _deviations(measure: Measures) -> list[float]:
    """(M,) standard deviations with n - 1 in the denominator; |τ| of a single element."""
    if measure.size == 1:
        return [float(v) for v in measure.total(lambda tile: tile.values.flatten(1).abs().sum(1))]

    def squares() -> Tensor:
        sums = measure.total(lambda tile: tile.values.flatten(1).sum(1, dtype=torch.float64))
        about = (sums / measure.size).view(-1, 1)
        return measure.total(
            lambda tile: (
                (tile.values.flatten(1).double() - about.to(tile.values.device)).square().sum(1)
            )
        )

    return [math.sqrt(float(s) / (measure.size - 1)) for s in measure.once("deviation", squares)]
