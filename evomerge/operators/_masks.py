"""Random masks of task vectors, for DARE and its relatives."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Rescale = Literal["inverse", "l1", "none"]


def drop_and_rescale(
    deltas_M: Tensor, density: Tensor, uniforms: Tensor, rescale: Rescale
) -> Tensor:
    """Keep each element with probability ``density`` and make up for those dropped.

    Args:
        deltas_M: (M, *shape).
        density: (M,) in (0, 1].
        uniforms: (M, *shape) in [0, 1); an element stays where it is below the density.
        rescale: ``inverse`` divides by the density, ``l1`` restores the sum of magnitudes.
    """
    columns = density.view(-1, *[1] * (deltas_M.dim() - 1))
    kept_M = deltas_M * (uniforms < columns)
    if rescale == "inverse":
        return kept_M / columns
    if rescale == "l1":
        axes = tuple(range(1, deltas_M.dim()))
        before = deltas_M.abs().sum(axes, keepdim=True, dtype=torch.float64)
        after = kept_M.abs().sum(axes, keepdim=True, dtype=torch.float64)
        ratio = torch.where(after == 0, 1.0, before / torch.where(after == 0, 1.0, after))
        return kept_M * ratio.float()
    return kept_M
