"""Weighted sum of task vectors, scaled by the depth of the block."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from evomerge.kernels.consensus import scaled, weighted_sum
from evomerge.kernels.stack import Merged, Stack
from evomerge.operators._bound import Bound, Floats
from evomerge.operators._operator import operator

Head = Literal["first", "last"]
Layer = int | Literal["head"] | None


@operator(
    on="either",
    per_source={"weight": Bound(1.0)},
    paper_defaults={"alpha": 0.5, "beta": 0.5},
    paper="Wang et al. 2024, arXiv:2410.17146",
)
def lines(
    x: Stack,
    *,
    weight: Floats,
    alpha: float = 0.5,
    beta: float = 0.5,
    layer: Annotated[int, Field(ge=0)] | None = None,
    num_layers: Annotated[int, Field(ge=1)] = 1,
) -> Merged:
    """(α + β l / (L - 1)) Σ w_i τ_i in block l of L; α Σ w_i τ_i outside the blocks.

    Every operator on task vectors takes the same step last if given ``lines_alpha`` and
    ``lines_beta``.

    Args:
        x: M task vectors.
        weight: (M,) any sign.
        alpha: factor of the first block.
        beta: by how much more the last block counts.
        layer: l, from 0; null for the tensor's own, if the model is known.
        num_layers: L, where a layer is given.

    Source: LiNeS, Wang et al. 2024, arXiv:2410.17146.
    """
    (factor,) = factors([layer], alpha=alpha, beta=beta, num_layers=num_layers)
    if layer is None and x.depth is not None:
        factor = alpha + beta * x.depth
    return x.each(lambda tile: scaled(weighted_sum(tile.values, weight), factor))


def factors(
    layers: Sequence[Layer],
    *,
    alpha: float,
    beta: float,
    num_layers: int,
    head: Head = "first",
) -> list[float]:
    """What the merged task vector of each block is multiplied with.

    Args:
        layers: (T,) indices of blocks from 0; None outside the blocks, ``"head"`` for the head.
        alpha: factor of the first block, and of what lies outside the blocks.
        beta: by how much more the last block counts; a single block is the last.
        num_layers: blocks of the model.
        head: whether the head counts as the ``first`` block, as in the authors' code, or as the
            ``last``.

    Source: LiNeS, Wang et al. 2024, arXiv:2410.17146.
    """
    last = max(1, num_layers - 1)
    depth = {layer: layer if num_layers > 1 else last for layer in range(num_layers)}
    found = []
    for layer in layers:
        place = last if layer == "head" and head == "last" else 0
        found.append(alpha + beta * (depth[layer] if isinstance(layer, int) else place) / last)
    return found


def multi_task_alpha(tensors: Iterable[tuple[Sequence[Tensor], Tensor]]) -> float:
    """The α that keeps a merge of M task vectors at the size of their mean.

    ‖Σ τ_i‖₁ / (M ‖δ‖₁), norms over the whole model.

    Args:
        tensors: for each tensor of the model its (M,) task vectors and the merged one, δ.

    Source: the authors' code of LiNeS, Wang et al. 2024, arXiv:2410.17146.
    """
    total, merged, count = 0.0, 0.0, 1
    for taus, delta in tensors:
        count = len(taus)
        total += float(torch.stack([*taus]).double().sum(0).abs().sum())
        merged += float(delta.double().abs().sum())
    return total / (count * merged) if merged else 1.0
