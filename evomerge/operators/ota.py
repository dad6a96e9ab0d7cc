"""OTA: task vectors averaged by the second moments of the optimizers that made them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from evomerge.kernels.choices import Scope
from evomerge.kernels.consensus import nonzero
from evomerge.kernels.stack import Merged, Stack, Tile
from evomerge.operators import Bound, Floats, operator
from evomerge.operators._saliency import curvature, masks


@operator(
    on="either",
    averages=True,
    per_source={
        "weight": Bound(1.0, least=0.0),
        "threshold": Bound(0.0, least=0.0),
        "density": Bound(1.0, above=0.0, most=1.0),
    },
    paper_defaults={"power": 0.5, "density": 0.4},
    paper="Mahdavinia et al. 2025, arXiv:2509.11167",
    statistics="second_moments",
)
def ota(
    x: Stack,
    *,
    weight: Floats,
    threshold: Floats,
    density: Floats,
    lam: float = 1.0,
    power: Annotated[float, Field(ge=0)] = 0.5,
    eps: Annotated[float, Field(ge=0)] = 1e-26,
    rank1: bool = False,
    scope: Scope = "tensor",
    space: Literal["weights", "task_vector"] = "task_vector",
) -> Merged:
    """λ Σ g_i τ_i / Σ g_i, where g_i = (w_i v_i^p + ε) m_i; in weight space Σ g_i W_i / Σ g_i.

    v_i are the second moments of source i's optimizer (Adam's exp_avg_sq) at the end of its
    training, or what ``evomerge statistics --kind second_moments`` estimates. m_i = 1 for the
    entries of largest saliency v_i τ_i². Entries that no source finds salient keep the base's
    value. Where a source has no second moments for a tensor, v = 1 for all sources.

    Args:
        x: M task vectors, or weights without masks.
        weight: (M,) factors of v_i^p, not negative.
        threshold: (M,) least saliency of an entry; 0 lets all pass.
        density: (M,) fraction of the entries that pass, in (0, 1].
        lam: scale of the result; not used in weight space.
        power: p; 0 averages what passes.
        eps: ε; the authors' default of 1e-8 would outweigh the second moments of most models,
            their settings use 1e-26.
        rank1: replace the second moments of matrices by row sums times column sums over the sum.
        scope: whether a density counts in each ``tensor`` or in the whole model (``global``).
        space: what is averaged.

    Source: OTA, Mahdavinia et al. 2025, arXiv:2509.11167, with the masks of FFG.
    """
    mask = None
    if x.deltas:
        mask = masks(x, density=density, threshold=threshold, rank1=rank1, scope=scope)
    scale = lam if x.deltas else 1.0

    def kernel(tile: Tile) -> Tensor:
        g_M = curvature(tile, rank1=rank1).pow_(power)
        for g, w in zip(g_M, weight, strict=True):
            g.mul_(w).add_(eps)
        if mask is not None:
            g_M *= mask(tile)
        total = tile.values.mul_(g_M).sum(0)
        return total.div_(nonzero(g_M.sum(0))).mul_(scale)

    return x.each(kernel)
