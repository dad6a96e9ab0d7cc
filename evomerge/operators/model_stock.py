"""Model Stock: the average, drawn back to the base as far as the sources disagree."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from evomerge.kernels.consensus import weighted_sum
from evomerge.kernels.measures import measures
from evomerge.kernels.stack import Merged, Stack, Tile
from evomerge.kernels.sums import weighted
from evomerge.operators import operator

Average = Literal["cos", "angle"]

_LEAST_PRODUCT = 1e-12  # of two norms; mergekit's 1e-6 biases small tensors
_POLE = 1e-6


@operator(on="task_vectors", paper="Jang et al. 2024, arXiv:2403.19522")
def model_stock(
    x: Stack, *, per_row: bool = False, clamp: bool = True, average: Average = "cos"
) -> Merged:
    """The average task vector times t = M c / (1 + (M - 1) c), c the mean cosine of the pairs.

    Args:
        x: M task vectors; a single one is returned as it is.
        per_row: one t for each row instead of one for the tensor.
        clamp: keep c in [0, 1]; a negative c gives a negative t, and infinity at -1/(M - 1).
        average: of the ``cos`` of the pairs (mergekit), or of their ``angle``; the paper has
            two sources only.

    Source: Jang et al. 2024, arXiv:2403.19522.
    """
    mean = [1 / x.count] * x.count
    if per_row:

        def kernel(tile: Tile) -> Tensor:
            rows = tile.values.double().transpose(0, 1)
            t = ratio(rows @ rows.transpose(1, 2), clamp=clamp, average=average)
            return weighted_sum(tile.values, mean).mul_(t.float().view(-1, 1))

        return x.each_row(kernel)
    t = float(ratio(measures(x).gram(), clamp=clamp, average=average))
    return weighted(x, mean, factor=t)


def ratio(gram: Tensor, *, clamp: bool = True, average: Average = "cos") -> Tensor:
    """(...) float64: t, from (..., M, M) float64 inner products of the task vectors."""
    count = gram.shape[-1]
    if count == 1:
        return torch.ones_like(gram[..., 0, 0])
    norms = gram.diagonal(dim1=-2, dim2=-1).sqrt()
    products = (norms.unsqueeze(-1) * norms.unsqueeze(-2)).clamp(min=_LEAST_PRODUCT)
    i, j = torch.triu_indices(count, count, offset=1, device=gram.device)
    pairs = (gram / products)[..., i, j].clamp(-1, 1)
    cosine = pairs.mean(-1) if average == "cos" else pairs.acos().mean(-1).cos()
    cosine = cosine.clamp(0, 1) if clamp else cosine
    divisor = 1 + (count - 1) * cosine
    pole = divisor.abs() < _POLE
    return torch.where(pole, 0.0, count * cosine / torch.where(pole, 1.0, divisor))
