"""Recorded statistics of the sources' tensors, as operators use them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evomerge.errors import OperatorError
from evomerge.kernels.stack import Input, Stack, stretch

_STEP = 1 << 20  # elements summed up at once, in float64


def recorded(x: Stack) -> list[Input] | None:
    """(M,) statistics of the tensor's shape; None if a source has none.

    Raises:
        OperatorError: one has another shape.
    """
    tensors = [tensor for tensor in x.statistics if tensor is not None]
    if len(tensors) < x.count:
        return None
    for label, tensor in zip(x.labels, tensors, strict=True):
        if tuple(tensor.shape) != x.shape:
            raise OperatorError(
                f"{x.name}: the statistics of {label} are of shape {tuple(tensor.shape)}, "
                f"expected {x.shape}. Collect them of the model that is merged."
            )
    return tensors


def sums(tensors: Sequence[Input], power: int = 1) -> Tensor:
    """(M,) float64: the sum of each tensor's elements to a power."""
    totals = torch.zeros(len(tensors), dtype=torch.float64)
    for total, tensor in zip(totals, tensors, strict=True):
        size = torch.Size(tensor.shape).numel()
        for start in range(0, size, _STEP):
            part = stretch(tensor, start, min(start + _STEP, size))
            total += part.double().pow(power).sum().cpu()
    return totals


def whole(tensor: Input) -> Tensor:
    """A statistic as one tensor."""
    if isinstance(tensor, Tensor):
        return tensor
    shape = torch.Size(tensor.shape)
    return tensor.slice(0, shape.numel()).view(shape)
