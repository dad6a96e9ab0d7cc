"""A table of token rows in another order than its model's."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

_ROWS = 4096  # gathered at once where a mean runs over all of them


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
    dtype: torch.dtype = field(default=torch.float32, init=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """(R, ...)."""
        return (len(self.own), *self.table.shape[1:])

    def slice(self, start: int, stop: int) -> Tensor:
        """The elements [start, stop) of the flattened table, (stop - start,) float32."""
        width = self.table[:1].numel()
        first, last = start // width, -(-stop // width)
        return self.gather(first, last).reshape(-1)[start - first * width : stop - first * width]

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
        for start in range(0, self.rows, _ROWS):
            total += self._gather(start, min(start + _ROWS, self.rows)).double().sum(0)
        return (total / max(self.rows, 1)).float()
