"""Tensors that are computed stretch by stretch when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class LazyTensor(Protocol):
    """A tensor that is computed when it is read, such as an embedding aligned to a tokenizer."""

    @property
    def shape(self) -> Sequence[int]:
        """The whole tensor's shape."""

    def slice(self, start: int, stop: int) -> Tensor:
        """(stop - start,) the flat elements [start, stop), of any float dtype."""


Input = Tensor | LazyTensor


def stretch(tensor: Input, start: int, stop: int) -> Tensor:
    """(stop - start,) the flat elements [start, stop) of a tensor, in its own dtype."""
    if isinstance(tensor, Tensor):
        return tensor.reshape(-1)[start:stop]
    return tensor.slice(start, stop)
