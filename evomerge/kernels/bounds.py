"""Exact order statistics in a single pass, with bounds estimated from a sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.compiled import array, compiled, fits
from evomerge.kernels.cuts import Cut, below_float, exact_cut, places_of
from evomerge.kernels.memory import GrowingColumns, buffer

BLOCKS, BLOCK = 16, 1 << 10  # a sample is so many blocks of so many elements
_ERRORS = 3  # from the estimate to either bound, in standard errors of the sample


def bounds(blocks: Any, fraction: float) -> tuple[float, float]:
    """Bounds (low, high] that most probably hold the k-th largest number.

    Args:
        blocks: (b, n) float32 array, a sample of the numbers; negative ones are left out.
        fraction: k as a fraction of all numbers.
    """
    ranked = np.sort(blocks[blocks >= 0])[::-1]
    if not ranked.size:
        return 0.0, math.inf
    level = ranked[min(int(fraction * ranked.size), ranked.size - 1)]
    # the rows of a matrix differ in scale, so the spread between blocks is what counts
    shares = (blocks > level).sum(1) / np.maximum((blocks >= 0).sum(1), 1)
    width = _ERRORS * float(shares.std()) / math.sqrt(len(blocks)) + 1 / blocks.shape[1]
    top, bottom = (int((fraction + side * width) * ranked.size) for side in (-1, 1))
    high = float(ranked[top]) if top >= 0 else math.inf
    # strictly below: many bfloat16 weights are equal, the k-th largest perhaps to this one
    low = below_float(float(ranked[bottom])) if bottom < ranked.size else 0.0
    return max(low, 0.0), high


def between(numbers: Tensor, low: float, high: float) -> tuple[int, Tensor, Tensor]:
    """How many numbers exceed ``high``, and the k numbers in (low, high] with their indices.

    Args:
        numbers: (n,) float32, not negative.

    Returns:
        the count; (k,) float32; (k,) int64, ascending, which the next call in this thread may
        overwrite.
    """
    if fits(numbers):
        size = -(-numbers.numel() // 8) * 8
        inside = buffer("inside", (1, size // 4), numbers.device)[0].view(torch.uint8)
        places = buffer("places", (1, 2 * size + 2), numbers.device)[0].view(torch.int64)
        words = inside.view(torch.int64)
        above = _mark(array(numbers), np.float32(low), np.float32(high), array(inside))
        indices = places[: _places(array(inside), array(words), array(places))]
        return above, numbers[indices], indices
    larger = torch.hardshrink(numbers, high)
    inside = torch.hardshrink(numbers, low).sub_(larger)
    at = places_of(inside)
    return int(larger.sign_().sum()), inside[at], at  # below 2²⁴: exact


@compiled
def _mark(numbers: Any, low: Any, high: Any, inside: Any) -> Any:
    """How many exceed ``high``; sets ``inside`` to 1 for those in (low, high], else to 0."""
    above: Any = 0
    for j in range(numbers.size):
        above += np.int32(numbers[j] > high)
        inside[j] = (numbers[j] > low) & (numbers[j] <= high)
    inside[numbers.size :] = 0
    return above


@compiled
def _places(inside: Any, words: Any, places: Any) -> Any:
    """How many bytes of ``inside`` are 1, and their indices; ``words`` is ``inside`` as int64."""
    count: Any = 0
    for word in range(words.size):
        if words[word]:
            for j in range(8 * word, 8 * word + 8):  # no branch: it would be mispredicted
                places[count] = j
                count += inside[j]
    return count


def cuts_between_bounds(
    scores: Callable[[], Iterator[tuple[int, Tensor]]],
    sample: Tensor,
    size: int,
    wanted: Sequence[tuple[int, int]],
) -> dict[tuple[int, int], Cut]:
    """The cut of each wanted (row, k), or nothing if the sample misled.

    Numbers above the upper bound are counted, numbers between the bounds are gathered.

    Args:
        scores: yields flat index and (S, n) non-negative float32, in order.
        sample: (S, b, n) of the numbers.
        size: numbers in a row.
        wanted: rows, and how many of the largest numbers lie above the cut.
    """
    limits = [bounds(sample[row].numpy(), count / size) for row, count in wanted]
    beyond = torch.zeros(len(wanted), dtype=torch.float64)
    tables = []
    for (row, _), (low, high) in zip(wanted, limits, strict=True):
        share = ((sample[row] > low) & (sample[row] <= high)).double().mean()
        tables.append(GrowingColumns([torch.float32, torch.int64], int(1.2 * size * float(share))))
    for start, rows in scores():
        for number, ((row, _), (low, high)) in enumerate(zip(wanted, limits, strict=True)):
            above, numbers, places = between(rows[row].reshape(-1), low, high)
            tables[number].add(numbers, places + start)
            beyond[number] += above
    cuts: dict[tuple[int, int], Cut] = {}
    for (row, count), table, above_count in zip(wanted, tables, beyond, strict=True):
        numbers, indices = table.columns
        missing = count - int(above_count)
        if not 0 < missing <= numbers.numel():
            return {}
        cuts[row, count] = exact_cut(numbers, indices, missing)
    return cuts
