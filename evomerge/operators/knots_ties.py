"""TIES on task vectors written in one common basis."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from evomerge.kernels.consensus import plain_divisor
from evomerge.kernels.stack import Merged, Stack, Tiles
from evomerge.operators import Bound, Floats, operator
from evomerge.operators._spectral import Factors, factors, has_matrices, scaled_mean, svd
from evomerge.operators.ties import ties


@operator(
    on="task_vectors",
    per_source={"weight": Bound(1.0), "density": Bound(1.0, above=0.0, most=1.0)},
    paper_defaults={"density": 0.3, "lam": 0.6},
    paper="Stoica et al. 2024, arXiv:2410.19735",
)
def knots_ties(
    x: Stack,
    *,
    weight: Floats,
    density: Floats,
    lam: float = 1.0,
    normalize: bool = True,
    tol: Annotated[float, Field(ge=0)] = 1e-5,
) -> Merged:
    """λ · U · TIES(S V_1ᵀ, ..., S V_Mᵀ), where U S [V_1ᵀ ... V_Mᵀ] = [τ_1 ... τ_M].

    The task vectors, side by side along the input axis, are written in one orthonormal basis of
    the output space. Their coefficients are trimmed and elected as in ``ties``. Tensors that are
    no matrices, embeddings and heads get λ · weighted mean of τ_i; fused experts (E, out, in)
    are merged one by one.

    Basis and coefficients are kept from candidate to candidate, up to 4 GiB in all: M + 1 floats
    per weight of a square matrix.

    Args:
        x: M task vectors.
        weight: (M,) any sign, as in ``ties``.
        density: (M,) fraction of each source's coefficients kept by magnitude, in (0, 1].
        lam: scale of the result.
        normalize: divide by the absolute weight of the sources that agree.
        tol: singular values up to this are dropped.

    Source: Stoica et al. 2024, arXiv:2410.19735. Coefficients are trimmed matrix by
    matrix; the authors' code trims those of the whole model together.
    """
    if not has_matrices(x):
        divisor = plain_divisor(weight, signed=False) if normalize else 1.0
        return scaled_mean(x, lam * x.count / divisor, weight)

    def make(values_Mmn: Tensor) -> Factors:
        basis = svd(torch.cat([*values_Mmn], dim=1), absolute=tol).U
        return basis.float(), (basis.T @ values_Mmn.double()).float()

    merged = []
    for basis, parts in factors(x, "knots_ties", tol, make):
        coefficients = Stack([*parts], device=x.device)
        agreed = ties.function(
            coefficients, weight=weight, density=density, lam=lam, normalize=normalize
        )
        merged.append(basis @ _gathered(agreed))
    return torch.stack(merged).view(x.shape)


def _gathered(merged: Merged) -> Tensor:
    """A result of tiles as one tensor."""
    assert isinstance(merged, Tiles)
    parts = [merged.kernel(tile).clone() for tile in merged.stack.tiles()]
    return torch.cat(parts or [torch.zeros(0, device=merged.stack.device)]).view(merged.stack.shape)
