"""Task vectors added up with coefficients that were learned for chunks of each tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from evomerge.errors import OperatorError
from evomerge.kernels.stack import Merged, Stack, Tile
from evomerge.operators import operator
from evomerge.operators._statistics import whole


@operator(
    on="task_vectors",
    paper="Zhang et al. 2025, arXiv:2509.25712",
    statistics="raw",
)
def expert_merging(x: Stack) -> Merged:
    """Σ_i Σ_c sigmoid(a_ic) · chunk c of τ_i.

    Each tensor is cut, flat, into C chunks of ⌈n / C⌉ elements; there may be fewer of them than
    coefficients. A tensor without coefficients stays as in the base: norms, embeddings, heads
    and biases in the paper.

    No command of evomerge learns the coefficients: they are trained together, through the merged
    model. On a few unlabeled prompts of each source's tasks the paper lowers T² times the cross
    entropy of the merged model's softmax(logits / T) to the source's, plus the mean squared
    difference of hidden states in some blocks; and, over all coefficients, Σ |sigmoid(a) - 0.1|.
    Write a folder for each source: ``manifest.json`` is ``{"format": 1, "kind": "raw"}``, and
    ``statistics.safetensors`` holds its a_i, float32, under the name of each tensor.

    Args:
        x: M task vectors, with the coefficients a_i of each, (C,) for each tensor.

    Raises:
        OperatorError: coefficients that are not one-dimensional.

    Source: Expert Merging, Zhang et al. 2025, arXiv:2509.25712, as in the authors' code.
    """
    tables = [_coefficients(x, i) for i in range(len(x.statistics))]

    def kernel(tile: Tile) -> Tensor:
        total = torch.zeros_like(tile.values[0])
        for values, table in zip(tile.values, tables, strict=True):
            for start, stop, factor in _pieces(table, tile.start, values.numel(), x.size):
                total[start:stop] += values[start:stop].mul_(factor)
        return total

    return x.each(kernel)


def _coefficients(x: Stack, source: int) -> list[float]:
    """(C,) the factors sigmoid(a) of one source; empty if it has none for this tensor."""
    raw = x.statistics[source]
    if raw is None:
        return []
    if len(raw.shape) != 1:
        raise OperatorError(
            f"{x.name}: the coefficients of {x.labels[source]} are of shape {tuple(raw.shape)}, "
            "expected one number a chunk."
        )
    return [float(value) for value in whole(raw).double().sigmoid()]


def _pieces(
    table: Sequence[float], start: int, count: int, size: int
) -> Iterator[tuple[int, int, float]]:
    """Where each chunk begins and ends within a tile of ``count`` elements, and its factor."""
    if not table:
        return
    chunk = -(-size // len(table))
    for number in range(start // chunk, -(-(start + count) // chunk)):
        first = max(number * chunk - start, 0)
        yield first, min((number + 1) * chunk - start, count), table[number]
