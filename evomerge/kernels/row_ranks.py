"""The rank of every element in its row, by magnitude."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.compiled import array, as_bits, compiled, fits
from evomerge.kernels.memory import scratch

_OCTAVES = 8  # powers of two, below the row's largest magnitude, that are split into buckets
_MOVES = 8  # per number: beyond, insertion sort gives up
_COLUMN = np.uint64(0xFFFFFFFF)


def ranks(values: Tensor) -> Tensor:
    """(r, c) float32: 0 for a row's smallest magnitude, c - 1 for its largest.

    Args:
        values: (r, c) float32; of equal magnitudes the leftmost ranks highest.

    Returns:
        (r, c), which the next call in this thread may overwrite.
    """
    columns = values.shape[1]
    if fits(values):
        ranked = scratch("ranks", values)
        _rank_rows(array(values), array(ranked))
        return ranked
    order = columns - 1 - values.abs().flip(1).argsort(dim=1, stable=True)
    steps = torch.arange(columns, dtype=torch.float32, device=values.device)
    return torch.empty_like(values).scatter_(1, order, steps.expand_as(values))


@compiled
def _rank_rows(values: Any, ranked: Any) -> None:
    columns = values.shape[1]
    shift = 23  # leading bits that make a bucket: about c / 4 buckets for each power of two
    while 4 << (23 - shift) < columns and shift > 8:
        shift -= 1
    count = np.empty(_OCTAVES << (23 - shift), np.int32)
    buckets = np.empty(columns, np.int32)
    keys = np.empty(columns, np.uint64)  # magnitude, then place: these differ
    for r in range(values.shape[0]):
        _sort_by_bucket(values[r], shift, count, buckets, keys)
        if not _sort_nearly_sorted(keys):
            keys.sort()
        for rank in range(columns):
            ranked[r, columns - 1 - np.int64(keys[rank] & _COLUMN)] = rank


@compiled
def _sort_by_bucket(row: Any, shift: int, count: Any, buckets: Any, keys: Any) -> None:
    """Sort keys by their leading bits; one bucket takes all that is far below the largest."""
    largest = np.uint32(0)
    for j in range(row.size):
        largest = max(largest, _magnitude(row[j]))
    offset = np.int32(largest >> np.uint32(shift)) - (count.size - 1)
    count[:] = 0
    for j in range(row.size):
        buckets[j] = max(np.int32(_magnitude(row[j]) >> np.uint32(shift)) - offset, 0)
    for j in range(row.size):
        count[buckets[j]] += 1
    before = 0
    for bucket in range(count.size):
        here = count[bucket]
        count[bucket] = before
        before += here
    for j in range(row.size - 1, -1, -1):  # so that equal magnitudes are in the order of their keys
        place = count[buckets[j]]
        count[buckets[j]] = place + 1
        magnitude = np.uint64(_magnitude(row[j])) << np.uint64(32)
        keys[place] = magnitude | np.uint64(row.size - 1 - j)


@compiled
def _magnitude(value: Any) -> Any:
    """Integers in the order of the magnitudes."""
    return as_bits(value) & np.uint32(0x7FFFFFFF)


@compiled
def _sort_nearly_sorted(keys: Any) -> bool:
    """Sort by insertion; False if that was given up because it takes long."""
    moves = _MOVES * keys.size
    for place in range(1, keys.size):
        key, at = keys[place], place
        while at > 0 and keys[at - 1] > key:
            keys[at] = keys[at - 1]
            at -= 1
        keys[at] = key
        moves -= place - at
        if moves < 0:
            return False
    return True
