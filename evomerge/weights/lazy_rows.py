"""Matrices whose rows are computed only where they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from evomerge.kernels.stack import Input, stretch

_ROWS = 1024  # computed at once by `whole`: float64 takes twice the memory
_SUMMED_ROWS = 4096  # gathered at once where a mean runs over all of them


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
        return _flat(self.rows, self.shape[1], start, stop)

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


@dataclass(frozen=True)
class AlignedRows:
    """A model's table in the merged model's row order, gathered only where it is read.

    Attributes:
        table: (rows of the model, ...).
        own: (R,) int64, the table's row for each merged row, -1 where it has none.
        donors: other tables, each with its rows like ``own``; their mean fills what it lacks.
        rows: how many merged rows are tokens; those behind are padding, the mean of all of these.
    """

    table: Tensor
    own: Tensor
    donors: tuple[tuple[Tensor, Tensor], ...]
    rows: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(R, ...)."""
        return (len(self.own), *self.table.shape[1:])

    def slice(self, start: int, stop: int) -> Tensor:
        """The elements [start, stop) of the flattened table, (stop - start,) float32."""
        return _flat(self.gather, self.table[:1].numel(), start, stop)

    def gather(self, first: int, last: int) -> Tensor:
        """The rows [first, last), (last - first, ...) float32."""
        # float32 even where a table is stored in less: a donor's rows must not be rounded
        gathered = self._gather(first, min(last, self.rows))
        padding = last - max(first, self.rows)
        if padding <= 0:
            return gathered
        return torch.cat([gathered, self._mean.expand(padding, *self.table.shape[1:])])

    def _gather(self, first: int, last: int) -> Tensor:
        own = self.own[first:last] if first < last else self.own[:0]
        known = own >= 0
        if bool(known.all()):
            return self.table[own].to(torch.float32)
        out = torch.zeros((len(own), *self.table.shape[1:]))
        out[known] = self.table[own[known]].to(torch.float32)
        (missing,) = (~known).nonzero(as_tuple=True)
        count = torch.zeros(len(missing))
        for table, rows in self.donors:
            theirs = rows[first:last][missing]
            has = theirs >= 0
            out[missing[has]] += table[theirs[has]].to(torch.float32)
            count += has
        out[missing] /= count.clamp(min=1).view(-1, *[1] * (out.dim() - 1))
        return out

    @cached_property
    def _mean(self) -> Tensor:
        """The mean of all rows that are not padding, summed in float64."""
        total = torch.zeros(self.table.shape[1:], dtype=torch.float64)
        for start in range(0, self.rows, _SUMMED_ROWS):
            total += self._gather(start, min(start + _SUMMED_ROWS, self.rows)).double().sum(0)
        return (total / max(self.rows, 1)).float()


@dataclass(frozen=True, slots=True)
class AlignedColumns:
    """A table of a model with a column for every token, gathered only where it is read.

    Attributes:
        turned: the table with its columns as rows.
    """

    turned: AlignedRows

    @property
    def shape(self) -> tuple[int, int]:
        """(n, R)."""
        return (self.turned.table.shape[1], len(self.turned.own))

    def slice(self, start: int, stop: int) -> Tensor:
        """The elements [start, stop) of the flattened table, (stop - start,) float32."""
        return _flat(self._rows, self.shape[1], start, stop)

    def _rows(self, first: int, last: int) -> Tensor:
        """(last - first, R) float32."""
        part = replace(
            self.turned,
            table=self.turned.table[:, first:last],
            donors=tuple((table[:, first:last], rows) for table, rows in self.turned.donors),
        )
        return part.gather(0, self.shape[1]).T


def _flat(rows: Callable[[int, int], Tensor], width: int, start: int, stop: int) -> Tensor:
    """The flat elements [start, stop) of the rows that hold them."""
    first, last = start // width, -(-stop // width)
    return rows(first, last).reshape(-1)[start - first * width : stop - first * width]
