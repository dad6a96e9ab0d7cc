"""RegMean: the linear layer whose outputs are closest to those of all sources on their data."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from evomerge.errors import OperatorError
from evomerge.kernels.stack import Merged, Stack, Tile
from evomerge.operators import Bound, Floats, operator
from evomerge.operators._statistics import whole


@operator(
    on="weights",
    per_source={"coeff": Bound(1.0, least=0.0)},
    weights="coeff",
    averages=True,
    paper_defaults={"offdiag": 0.9},
    paper="Jin et al. 2023, arXiv:2212.09849",
    statistics="grams",
)
def regmean(
    x: Stack,
    *,
    coeff: Floats,
    offdiag: Annotated[float, Field(ge=0, le=1)] = 0.9,
    ridge: Annotated[float, Field(ge=0)] = 1e-6,
) -> Merged:
    """Σ W_i G̃_i (Σ G̃_i)⁻¹, where G̃_i is G_i = E[x xᵀ] with its off-diagonals scaled.

    A tensor that is not 2-D, or of which a source has no Gram matrix, gets the mean of the
    sources. Where only diagonals are recorded, or with offdiag 0, each column is an average
    weighted by E[x_j²].

    Args:
        x: M weights (out, in), with the Gram matrices (in, in) of each layer's input, or their
            diagonals (in,).
        coeff: (M,) factors of the Gram matrices, not negative.
        offdiag: factor of their off-diagonals, in [0, 1].
        ridge: ρ; ρ tr(Σ G̃_i) / in is added to the diagonal, and as much of the mean weight to
            the other side: inputs that were never seen get the mean, and equal sources stay.

    Raises:
        OperatorError: the equations are singular; or a Gram matrix is of another shape.

    Source: RegMean, Jin et al. 2023, arXiv:2212.09849; the ridge is ours.
    """
    grams = _grams(x)
    diagonals = [_diagonal(gram) * c for gram, c in zip(grams, coeff, strict=False)]
    trace = sum(float(diagonal.sum()) for diagonal in diagonals)
    if not trace:
        return x.each(lambda tile: tile.values.sum(0).div_(x.count))
    extra = ridge * trace / x.shape[1]
    if offdiag == 0 or all(gram.dim() == 1 for gram in grams):
        return _by_column(x, diagonals, extra)
    return _solved(x, grams, coeff, offdiag, extra)


def _grams(x: Stack) -> list[Tensor]:
    """(M,) Gram matrices or their diagonals; empty if a source has none."""
    grams = [whole(gram) for gram in x.statistics if gram is not None]
    if len(x.shape) != 2 or len(grams) < x.count:
        return []
    width = x.shape[1]
    for label, gram in zip(x.labels, grams, strict=True):
        if tuple(gram.shape) not in ((width,), (width, width)):
            raise OperatorError(
                f"{x.name}: the Gram matrix of {label} is of shape {tuple(gram.shape)}, expected "
                f"{(width, width)} or {(width,)}. Collect it of the model that is merged."
            )
    return [gram.to(x.device) for gram in grams]


def _diagonal(gram: Tensor) -> Tensor:
    return (gram if gram.dim() == 1 else gram.diagonal()).double()


def _by_column(x: Stack, diagonals: list[Tensor], extra: float) -> Merged:
    total = torch.stack(diagonals).sum(0) + extra
    # without a ridge, a column of zeros in all Gram matrices gets the mean too
    weight_M = [((d + extra / x.count) / total).nan_to_num(1 / x.count).float() for d in diagonals]

    def kernel(tile: Tile) -> Tensor:
        for values, weight in zip(tile.values, weight_M, strict=True):
            values.mul_(weight)
        return tile.values.sum(0)

    return x.each_row(kernel)


def _solved(x: Stack, grams: list[Tensor], coeff: Floats, offdiag: float, extra: float) -> Tensor:
    values_M = x.whole()
    mean = values_M.sum(0, dtype=torch.float64) / x.count
    left = extra * torch.eye(x.shape[1], dtype=torch.float64, device=x.device)
    right = torch.zeros_like(mean.T)
    for values, gram, c in zip(values_M, grams, coeff, strict=True):
        scaled = gram.diag().double() if gram.dim() == 1 else gram.double() * offdiag
        scaled.diagonal().copy_(_diagonal(gram))
        scaled *= c
        left += scaled
        right += scaled @ (values - mean).T  # what is solved for is the distance from the mean
    factor, failed = torch.linalg.cholesky_ex(left)
    if failed:
        raise OperatorError(f"{x.name}: the Gram matrices are singular. Raise ridge.")
    return (mean + torch.cholesky_solve(right, factor).T).float()
