"""Task vectors added up: all of their entries, or those that agree with the elected sign."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from evomerge.kernels.choices import Consensus, Negative
from evomerge.kernels.consensus import consensus_sum, plain_divisor, scaled
from evomerge.kernels.stack import Merged, Stack, Tile
from evomerge.kernels.sums import weighted


def summed(
    x: Stack,
    weight: Sequence[float],
    *,
    lam: float,
    normalize: bool,
    consensus: Consensus | None = None,
    negative: Negative = "subtract",
) -> Merged:
    """λ Σ w_i τ_i.

    Args:
        x: M task vectors.
        weight: (M,) any sign.
        lam: scale of the sum.
        normalize: divide by |Σ w_i|; with an election by Σ |w_i| over the entries that agree.
        consensus: how signs are elected; None adds up everything.
        negative: as for `consensus_sum`.
    """
    if consensus is None:
        factor = lam / plain_divisor(weight, signed=False) if normalize else lam
        return weighted(x, weight, factor=factor)

    def kernel(tile: Tile) -> Tensor:
        total = consensus_sum(
            tile.values, weight, normalize=normalize, consensus=consensus, negative=negative
        )
        return scaled(total, lam)

    return x.each(kernel)
