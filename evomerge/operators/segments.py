"""A different weighted sum on each segment of the model's elements, as crossover makes them."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from evomerge.kernels.consensus import weighted_sum
from evomerge.kernels.stack import Merged, Stack, Tile
from evomerge.kernels.steps import replay
from evomerge.operators import operator


@operator(on="either", paper="M2N2, GECCO 2025, arXiv:2508.16204")
def segments(x: Stack, *, space: Literal["weights", "task_vector"] = "weights") -> Merged:
    """Σ c_i W_i with coefficients that are constant between the bounds of the recipe's segments.

    The recipe's key `segments` holds `bounds` and `rows`; without it all sources count alike.
    Its key `lineage`, in place of `segments`, holds the crossovers and mutations that lead to the
    model, which are replayed one after another.

    Args:
        x: M weights or task vectors.
        space: `task_vector` adds Σ c_i τ_i to the base, which is W_base (1 - Σ c_i) + Σ c_i W_i.

    Source: Competition and Attraction Improve Model Fusion, GECCO 2025, arXiv:2508.16204.
    """
    if x.lineage is not None:
        lineage = x.lineage

        def carry_out(tile: Tile) -> Tensor:
            sources = dict(zip(x.labels, tile.values, strict=True))
            return replay(lineage, sources, x.seed, start=x.offset + tile.start)

        return x.each(carry_out)
    pieces = x.pieces or [(x.size, (1 / x.count,) * x.count)]

    def kernel(tile: Tile) -> Tensor:
        values = tile.values
        start, stop = tile.start, tile.start + values.shape[-1]
        low = start
        for end, weight in pieces:
            high = min(end, stop)
            if high <= low:
                continue
            if (low, high) == (start, stop):
                return weighted_sum(values, weight)
            part = values[:, low - start : high - start]
            # the sum may or may not have been written to the first row
            part[0].copy_(weighted_sum(part, weight))
            low = high
        return values[0]

    return x.each(kernel)
