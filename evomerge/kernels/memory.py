"""Buffers that each thread uses again and again, because fresh memory costs page faults."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

_scratch = threading.local()


def fill(target: Tensor, values: Tensor) -> None:
    """Copy ``values`` of any float dtype into ``target``, float32, perhaps on a GPU."""
    if target.device == values.device or target.device.type != "cuda":
        target.copy_(values)
        return
    # from mapped memory the driver would copy in small pieces
    size, dtype = values.numel(), values.dtype
    store = _scratch.__dict__.setdefault("pinned", {})
    if dtype not in store or store[dtype].numel() < size:
        store[dtype] = torch.empty(size, dtype=dtype, pin_memory=True)
    pinned: Tensor = store[dtype][:size]
    torch.cuda.current_stream(target.device).synchronize()  # it may still be copying
    target.copy_(pinned.copy_(values), non_blocking=True)


def scratch(name: str, like: Tensor) -> Tensor:
    """Uninitialized float32 shaped as ``like``; the next call with this name overwrites it."""
    return buffer(name, (1, like.numel()), like.device).view(like.shape)


def doubled(values: Tensor) -> Tensor:
    """The values in float64; the next call in this thread overwrites them."""
    memory = buffer("double", (1, 2 * values.numel()), values.device)
    return memory.view(torch.float64).view(values.shape).copy_(values)


def buffer(name: str, shape: tuple[int, int], device: torch.device) -> Tensor:
    """Uninitialized float32 of this thread; its next call with this name overwrites it."""
    store = _scratch.__dict__.setdefault("buffers", {})
    size = shape[0] * shape[1]
    key = (name, device)
    if key not in store or store[key].numel() < size:
        store[key] = torch.empty(size, device=device)
    memory: Tensor = store[key][:size].view(shape)
    return memory


class GrowingColumns:
    """A table to which rows are appended, each column one contiguous tensor.

    A list of small tensors would be scattered among the temporary tensors of the tiles, and keep
    their memory from being used again.

    Args:
        dtypes: of the columns.
        expected: roughly how many rows there will be.
    """

    def __init__(self, dtypes: Sequence[torch.dtype], expected: int) -> None:
        self._columns = [torch.empty(max(expected, 1), dtype=dtype) for dtype in dtypes]
        self._rows = 0

    def add(self, *pieces: Tensor) -> None:
        """Append rows: (k,) for each column."""
        end = self._rows + pieces[0].numel()
        if end > self._columns[0].numel():
            room = max(end, 2 * self._columns[0].numel())
            grown = [torch.empty(room, dtype=column.dtype) for column in self._columns]
            for new, old in zip(grown, self._columns, strict=True):
                new[: self._rows] = old[: self._rows]
            self._columns = grown
        for column, piece in zip(self._columns, pieces, strict=True):
            column[self._rows : end] = piece
        self._rows = end

    @property
    def columns(self) -> list[Tensor]:
        """(rows,) for each column."""
        return [column[: self._rows] for column in self._columns]
