"""The sum of task vectors with all its singular values made equal."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from evomerge.kernels.stack import Merged, Stack
from evomerge.operators import operator
from evomerge.operators._spectral import Factors, factors, has_matrices, scaled_mean, sums, svd

LEAST = 1e-6  # of the largest singular value; directions below it are noise


@operator(
    on="task_vectors",
    scale="alpha",
    paper_defaults={"alpha": 1.0},
    paper="Marczak et al. 2025, arXiv:2502.04959",
)
def iso_c(x: Stack, *, alpha: float = 1.0, mean: Literal["all", "kept"] = "all") -> Merged:
    """α · σ̄ · U Vᵀ, where U diag(σ) Vᵀ = Σ τ_i and σ̄ is the mean of σ.

    Directions in which σ is below 1e-6 of its maximum are left out: the authors' code keeps
    them, and so amplifies noise where Σ τ_i is of low rank. Tensors that are no matrices,
    embeddings and heads get α · mean τ_i; fused experts (E, out, in) are merged one by one.

    U Vᵀ is kept from candidate to candidate, up to 4 GiB in all: one float per weight.

    Args:
        x: M task vectors.
        alpha: scale of the result.
        mean: of ``all`` min(out, in) singular values, as published, or of those ``kept``:
            better where the sources are low-rank adapters.

    Source: Marczak et al. 2025, arXiv:2502.04959.
    """
    if not has_matrices(x):
        return scaled_mean(x, alpha)

    def make(total: Tensor) -> Factors:
        U, S, V = svd(total, least=LEAST)
        return (U @ V.T).float(), S.sum(), torch.tensor(S.numel())

    merged = []
    for directions, total, rank in factors(x, "iso_c", None, make, sums):
        count = max(1, int(rank)) if mean == "kept" else min(x.shape[-2:])
        merged.append(directions * (alpha * float(total) / count))
    return torch.stack(merged).view(x.shape)
