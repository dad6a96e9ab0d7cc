"""The rank of every number in its row."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.operators._compiled import array, as_bits, compiled, fits

_OCTAVES = 8  # below the row's largest number that have buckets of their own
_MOVES = 8  # per number, from which on the buckets do not help


def ranks(numbers: Tensor) -> Tensor:
    """(r, c) float32: 0 for a row's smallest number, c - 1 for its largest.

    Args:
        numbers: (r, c) float32, not negative; equal ones rank by place, the leftmost highest.
    """
    if fits(numbers):
        found = torch.empty_like(numbers)
        _rank_rows(array(numbers), array(found))
        return found
    columns = numbers.shape[1]
    order = columns - 1 - numbers.flip(1).argsort(dim=1, stable=True)
    steps = torch.arange(columns, dtype=torch.float32, device=numbers.device)
    return torch.empty_like(numbers).scatter_(1, order, steps.expand_as(numbers))


@compiled
def _rank_rows(numbers: Any, found: Any) -> None:
    columns = numbers.shape[1]
    shift = 23  # buckets of an octave: about a quarter of the columns
    while 4 << (23 - shift) < columns and shift > 10:
        shift -= 1
    count = np.empty((_OCTAVES << (23 - shift)) + 2, np.int32)
    buckets = np.empty(columns, np.int32)
    order = np.empty(columns, np.int32)
    inorder = np.empty(columns, np.float32)
    for r in range(numbers.shape[0]):
        _into_buckets(numbers[r], shift, count, buckets, order, inorder)
        if not _sort_nearly_sorted(inorder, order):
            order[:] = columns - 1 - np.argsort(numbers[r, ::-1], kind="mergesort")
        for place in range(columns):
            found[r, order[place]] = place


@compiled
def _into_buckets(row: Any, shift: int, count: Any, buckets: Any, order: Any, inorder: Any) -> None:
    """Sort by bucket; within one, from right to left."""
    largest = row[0]
    for j in range(row.size):
        largest = max(largest, row[j])
    last = count.size - 2
    offset = np.int32(as_bits(largest) >> np.uint32(shift)) - last
    count[:] = 0
    for j in range(row.size):
        buckets[j] = max(np.int32(as_bits(row[j]) >> np.uint32(shift)) - offset, 0)
    for j in range(row.size):
        count[buckets[j] + 1] += 1
    for bucket in range(last + 1):
        count[bucket + 1] += count[bucket]
    for j in range(row.size - 1, -1, -1):
        place = count[buckets[j]]
        count[buckets[j]] = place + 1
        order[place] = j
        inorder[place] = row[j]


@compiled
def _sort_nearly_sorted(inorder: Any, order: Any) -> bool:
    """Sort by insertion, equal numbers as they come; gives up if that takes long."""
    moves = _MOVES * order.size
    for place in range(1, order.size):
        number, column = inorder[place], order[place]
        at = place
        while at > 0 and inorder[at - 1] > number:
            inorder[at], order[at] = inorder[at - 1], order[at - 1]
            at -= 1
        inorder[at], order[at] = number, column
        moves -= place - at
        if moves < 0:
            return False
    return True
