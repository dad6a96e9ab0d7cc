"""Consensus task arithmetic: keep what enough sources claim (TALL masks)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from evomerge.kernels.stack import Merged, Stack, Tile
from evomerge.operators import Bound, Floats, operator


@operator(
    on="task_vectors",
    per_source={"lam_mask": Bound(0.4, least=0.0)},
    scale="alpha",
    paper_defaults={"alpha": 0.4},
    paper="Wang et al. 2024, arXiv:2405.07813",
)
def consensus_ta(
    x: Stack,
    *,
    lam_mask: Floats,
    k: Annotated[int, Field(ge=0)] = 2,
    alpha: float = 1.0,
) -> Merged:
    """α Στ ⊙ 1[Σ m_i ≥ k], with the TALL masks m_i = 1[|τ_i| > λ_i |Στ - τ_i|].

    Args:
        x: M task vectors.
        lam_mask: (M,) λ_i, not negative; the larger, the less a source claims.
        k: how many sources must claim an element: 0 is task arithmetic, 1 leaves out only what
            no source claims, 2 also what one alone does.
        alpha: scale of the sum.

    Source: Wang et al. 2024, arXiv:2405.07813.
    """

    def kernel(tile: Tile) -> Tensor:
        total = tile.values.sum(0)
        count = masks(tile.values, lam_mask).sum(0)
        return total.mul_(alpha).mul_(count.sub_(k - 0.5).relu_().sign_())

    return x.each(kernel)


def masks(values_M: Tensor, lam_mask: Sequence[float]) -> Tensor:
    """(M, ...) the TALL masks m_i of (M, ...) task vectors."""
    total = values_M.sum(0)
    masks_M = [
        (values.abs() - (total - values).abs_().mul_(lam)).relu_().sign_()
        for values, lam in zip(values_M, lam_mask, strict=True)
    ]
    return torch.stack(masks_M)
