"""Task vectors averaged by how large they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from evomerge.kernels.consensus import scaled, weighted_sum
from evomerge.kernels.measures import Measures, measures, sums
from evomerge.kernels.stack import Merged, Stack, Tile


def averaged_by_size(x: Stack, q: float, lam: float) -> Merged:
    """λ Σ w_i τ_i with w_i ∝ mean(τ_i²)^(q/2).

    Args:
        x: M task vectors.
        q: 0 for equal weights.
        lam: scale of the average.
    """
    weight = shares(squares(measures(x)).tolist(), q)
    return x.each(lambda tile: scaled(weighted_sum(tile.values, weight), lam))


def shares(sizes: Sequence[float], q: float = 2.0) -> list[float]:
    """(M,) weights that sum to 1, proportional to s_i^(q/2); equal where all s_i are zero.

    Args:
        sizes: (M,) sums of squares s_i.
        q: power of their root.
    """
    largest = max(sizes)
    powers = [(s / largest) ** (q / 2) for s in sizes] if largest > 0 else [1.0] * len(sizes)
    return [p / math.fsum(powers) for p in powers]


def squares(measure: Measures) -> Tensor:
    """(M,) float64: Σ τ_i² over the elements."""

    def kernel(tile: Tile) -> Tensor:
        return sums(tile.values.flatten(1).square_())

    found: Tensor = measure.once("squares", lambda: measure.total(kernel))
    return found
