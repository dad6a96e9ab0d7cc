"""Task vectors reduced to signs times one number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from evomerge.kernels.choices import Scope
from evomerge.kernels.consensus import kept_count
from evomerge.kernels.cuts import keep
from evomerge.kernels.measures import Measures, magnitude, measures
from evomerge.kernels.stack import Stack, Tile


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
