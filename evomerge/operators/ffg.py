"""FFG: a task vector reduced to the entries that matter most to its loss."""

from __future__ import annotations

from torch import Tensor

from evomerge.kernels.choices import Scope
from evomerge.kernels.consensus import scaled
from evomerge.kernels.stack import Merged, Stack, Tile
from evomerge.operators import Bound, Floats, operator
from evomerge.operators._saliency import masks


@operator(
    on="task_vectors",
    per_source={"density": Bound(1.0, above=0.0, most=1.0), "threshold": Bound(0.0, least=0.0)},
    paper_defaults={"density": 0.4},
    paper="Mahdavinia et al. 2025, arXiv:2509.11167",
    sources=1,
    statistics="second_moments",
)
def ffg(
    x: Stack,
    *,
    density: Floats,
    threshold: Floats,
    lam: float = 1.0,
    rank1: bool = False,
    scope: Scope = "tensor",
) -> Merged:
    """λ τ where v τ² is among the largest, the base elsewhere.

    v are the second moments of the source's optimizer (Adam's exp_avg_sq) at the end of its
    training, or what ``evomerge statistics --kind second_moments`` estimates. Where a tensor has
    none, v = 1.

    Args:
        x: one task vector.
        density: fraction of the entries that is grafted, in (0, 1].
        threshold: least v τ² besides; 0 lets all pass.
        lam: scale of the result.
        rank1: replace the second moments of matrices by row sums times column sums over the sum.
        scope: whether the density counts in each ``tensor`` or in the whole model (``global``).

    Source: Fast Fisher Grafting, Mahdavinia et al. 2025, arXiv:2509.11167; the density form
    is ours.
    """
    mask = masks(x, density=density, threshold=threshold, rank1=rank1, scope=scope)

    def kernel(tile: Tile) -> Tensor:
        if mask is not None:
            tile.values *= mask(tile)
        return scaled(tile.values[0], lam)

    return x.each(kernel)
