"""How much a source's loss depends on an entry of its task vector: v τ².

v is the second moment of the source's optimizer, an estimate of the diagonal of the Hessian.

Source: Fast Fisher Grafting, Mahdavinia et al. 2025, arXiv:2509.11167.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from evomerge.kernels.choices import Scope
from evomerge.kernels.consensus import kept_count
from evomerge.kernels.cuts import below_float, keep
from evomerge.kernels.measures import measures
from evomerge.kernels.stack import Input, Kernel, Stack, Tile
from evomerge.operators._statistics import recorded, whole


def curvature(tile: Tile, *, rank1: bool) -> Tensor:
    """(M, ...) second moments, shaped as the tile's values; all 1 if a source has none.

    Args:
        tile: of a stack with second moments as statistics.
        rank1: replace those of matrices by row sums times column sums over the whole sum.
    """
    x = tile.stack
    recorded_M = recorded(x)
    if recorded_M is None:
        return torch.ones_like(tile.values)
    if not rank1 or len(x.shape) != 2:
        return tile.of(recorded_M)
    sums = measures(x).once("rank1", lambda: [_margins(tensor) for tensor in recorded_M])
    start, stop = tile.start, tile.start + tile.values[0].numel()
    first, last = start // x.shape[1], -(-stop // x.shape[1])
    shift = first * x.shape[1]
    parts = [
        torch.outer(rows[first:last], columns).flatten()[start - shift : stop - shift]
        for rows, columns in sums
    ]
    return torch.stack(parts).float().to(tile.values.device).view(tile.values.shape)


def _margins(second_moment: Input) -> tuple[Tensor, Tensor]:
    """Row sums, and column sums divided by the whole sum, float64."""
    v = whole(second_moment)
    rows, columns = v.sum(1, dtype=torch.float64), v.sum(0, dtype=torch.float64)
    return rows, columns / (columns.sum() or 1.0)


def masks(
    x: Stack,
    *,
    density: Sequence[float],
    threshold: Sequence[float],
    rank1: bool,
    scope: Scope = "tensor",
) -> Kernel | None:
    """Gives, for a tile, 1 where an entry is salient and else 0; None if all entries are.

    Args:
        x: M task vectors with second moments as statistics.
        density: (M,) fraction of the entries that is salient, in (0, 1].
        threshold: (M,) least saliency.
        rank1: as for `curvature`.
        scope: whether the fraction is of each tensor or of the model.
    """
    if all(d >= 1 for d in density) and not any(threshold):
        return None

    def kernel(tile: Tile) -> Tensor:
        """(M, n) v τ²."""
        v_M = curvature(tile, rank1=rank1)
        return v_M.mul_(tile.values).mul_(tile.values).flatten(1)

    cuts = None
    if any(d < 1 for d in density):
        measure = measures(x, scope)
        counts = [kept_count(d, measure.size) for d in density]
        cuts = measure.cuts(kernel, counts, ("saliency", rank1) if scope == "global" else None)

    def mask(tile: Tile) -> Tensor:
        kept_M = []
        for i, s in enumerate(kernel(tile)):
            kept = torch.ones_like(s)
            if threshold[i]:
                kept = hardshrink(s, below_float(threshold[i])).sign_()
            if cuts is not None and density[i] < 1:
                kept = kept * keep(s, cuts[i], tile.start).sign()
            kept_M.append(kept)
        return torch.stack(kept_M).view(tile.values.shape)

    return mask
