"""A common subspace and one of each task, all their singular values made equal."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from evomerge.kernels.stack import Merged, Stack
from evomerge.operators import operator
from evomerge.operators._spectral import Factors, factors, has_matrices, polar, scaled_mean, svd
from evomerge.operators.iso_c import LEAST


@operator(
    on="task_vectors",
    scale="alpha",
    paper_defaults={"alpha": 1.0, "common_space_fraction": 0.8},
    paper="Marczak et al. 2025, arXiv:2502.04959",
)
def iso_cts(
    x: Stack,
    *,
    alpha: float = 1.0,
    common_space_fraction: Annotated[float, Field(ge=0, le=1)] = 0.8,
) -> Merged:
    """α · σ̄ · polar(U) polar(V)ᵀ, with singular vectors of Σ τ_i and of what it leaves out.

    The leading singular vectors U_c of Σ τ_i span the common subspace; each source adds those
    of (I - U_c U_cᵀ) τ_i. σ̄ is the mean over all the singular values taken, as many as the
    smaller dimension. Tensors that are no matrices, embeddings and heads get α · mean τ_i;
    fused experts (E, out, in) are merged one by one.

    polar(U) polar(V)ᵀ is kept from candidate to candidate, up to 4 GiB in all: one float per
    weight.

    Args:
        x: M task vectors.
        alpha: scale of the result.
        common_space_fraction: part of the directions that is common, in [0, 1].

    Source: Marczak et al. 2025, arXiv:2502.04959. Null directions are left out
    (rule R14).
    """
    if not has_matrices(x):
        return scaled_mean(x, alpha)
    smaller = min(x.shape[-2:])
    shares = split(smaller, x.count, common_space_fraction)

    merged = [
        directions * (alpha * float(total) / smaller)
        for directions, total in factors(x, "iso_cts", shares, partial(_directions, *shares))
    ]
    return torch.stack(merged).view(x.shape)


def split(rank: int, count: int, common_space_fraction: float) -> tuple[int, int]:
    """How many of ``rank`` directions the common subspace has, and each of ``count`` tasks adds."""
    wanted = math.floor(common_space_fraction * rank + 1e-6)
    task = min(round((rank - wanted) / count), rank // count)
    return rank - count * task, task


def _directions(shared: int, own: int, values_Mmn: Tensor) -> Factors:
    common = svd(values_Mmn.sum(0), least=LEAST).top(shared)
    parts = []
    for tau in values_Mmn.double() if own else ():
        rest = tau - common.U @ (common.U.T @ tau)
        # what is left of a task within the common subspace is rounding
        noise = LEAST * float(tau.norm())
        parts.append(svd(rest, absolute=noise).top(own))
    parts.append(common)
    U, V = torch.cat([p.U for p in parts], 1), torch.cat([p.V for p in parts], 1)
    total = torch.cat([p.S for p in parts]).sum()
    return (polar(U) @ polar(V).T).float(), total
