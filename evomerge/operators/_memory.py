"""Memory that a thread uses again and again: fresh memory costs page faults."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

_scratch = threading.local()


def fill(target: Tensor, values: Tensor) -> None:
    """Copy values of any float dtype into float32 memory, perhaps on a GPU."""
    if target.device == values.device or target.device.type != "cuda":
        target.copy_(values)
        return
    # a copy from mapped memory would be staged by the driver, in small pieces
    pinned = _pinned(values.numel(), values.dtype)
    torch.cuda.current_stream(target.device).synchronize()  # the last copy has left the buffer
    target.copy_(pinned.copy_(values), non_blocking=True)


def _pinned(size: int, dtype: torch.dtype) -> Tensor:
    store = _scratch.__dict__.setdefault("pinned", {})
    if dtype not in store or store[dtype].numel() < size:
        store[dtype] = torch.empty(size, dtype=dtype, pin_memory=True)
    found: Tensor = store[dtype][:size]
    return found


def scratch(name: str, like: Tensor) -> Tensor:
    """Memory for a kernel's own use, shaped as ``like``, until it asks for that name again."""
    return buffer(name, (1, like.numel()), like.device).view(like.shape)


def doubled(values: Tensor) -> Tensor:
    """The values in float64, in memory that the next call in this thread overwrites."""
    memory = buffer("double", (1, 2 * values.numel()), values.device)
    return memory.view(torch.float64).view(values.shape).copy_(values)


def buffer(name: str, shape: tuple[int, int], device: torch.device) -> Tensor:
    """Memory of this thread that the next tile overwrites; fresh memory costs page faults."""
    store = _scratch.__dict__.setdefault("buffers", {})
    size = shape[0] * shape[1]
    key = (name, device)
    if key not in store or store[key].numel() < size:
        store[key] = torch.empty(size, device=device)
    found: Tensor = store[key][:size].view(shape)
    return found
