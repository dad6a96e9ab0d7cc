"""A weight plus a product of two thin matrices, computed only where it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.kernels.lazy import Input, stretch

_ROWS = 1024  # computed at once by `whole`: float64 takes twice the memory


@dataclass(frozen=True, slots=True)
class LowRank:
    """W + s·L·R, each row scaled to a length if there are magnitudes.

    Computed in float64 and rounded once, so that no element depends on how many rows are read
    together.

    Attributes:
        weight: (m, n), of any float dtype.
        left: (m, r).
        right: (r, n).
        scale: s.
        magnitude: (m,) lengths of the rows (DoRA, arXiv:2402.09353, eq. 5), or None.
    """

    weight: Input
    left: Tensor
    right: Tensor
    scale: float
    magnitude: Tensor | None = None

    @property
    def shape(self) -> Sequence[int]:
        """(m, n)."""
        return tuple(self.weight.shape)

    def slice(self, start: int, stop: int) -> Tensor:
        """The flat elements [start, stop), float32."""
        width = self.shape[1]
        first, last = start // width, -(-stop // width)
        return self.rows(first, last).reshape(-1)[start - first * width : stop - first * width]

    def rows(self, first: int, last: int) -> Tensor:
        """The rows [first, last), (last - first, n) float32."""
        width = self.shape[1]
        weight = stretch(self.weight, first * width, last * width).view(-1, width)
        product = self.left[first:last].double() @ self.right.double()
        total = product.mul_(self.scale).add_(weight.double())
        if self.magnitude is not None:
            lengths = torch.linalg.vector_norm(total, dim=1)
            total *= (self.magnitude[first:last].double() / lengths)[:, None]
        return total.float()

    def whole(self) -> Tensor:
        """All rows, (m, n) float32."""
        out = torch.empty(tuple(self.shape))
        for first in range(0, len(out), _ROWS):
            last = min(first + _ROWS, len(out))
            out[first:last] = self.rows(first, last)
        return out
