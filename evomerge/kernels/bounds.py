"""Exact order statistics from a single pass, between bounds that a sample gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.compiled import array, compiled, fits
from evomerge.kernels.cuts import Cut, below_float, exact_cut, places_of
from evomerge.kernels.memory import Pile, buffer

BLOCKS, BLOCK = 16, 1 << 10  # of a sample
_ERRORS = 3  # half the distance of the bounds, in standard errors of the sample


def bounds(blocks: Any, fraction: float) -> tuple[float, float]:
    """The last of the largest most probably exceeds the first, and not the second.

    Args:
        blocks: (b, n) float32 array of numbers from stretches everywhere; negative ones do not
            count.
        fraction: of the numbers that are among the largest.
    """
    ranked = np.sort(blocks[blocks >= 0])[::-1]
    if not ranked.size:
        return 0.0, math.inf
    level = ranked[min(int(fraction * ranked.size), ranked.size - 1)]
    # rows differ: what counts is how far the blocks' shares are from each other
    shares = (blocks > level).sum(1) / np.maximum((blocks >= 0).sum(1), 1)
    width = _ERRORS * float(shares.std()) / math.sqrt(len(blocks)) + 1 / blocks.shape[1]
    top, bottom = (int((fraction + side * width) * ranked.size) for side in (-1, 1))
    high = float(ranked[top]) if top >= 0 else math.inf
    # the last one may equal the lower bound: of bfloat16 weights many are equal
    low = below_float(float(ranked[bottom])) if bottom < ranked.size else 0.0
    return max(low, 0.0), high


def between(numbers: Tensor, low: float, high: float) -> tuple[int, Tensor, Tensor]:
    """How many numbers lie above ``high``; those above ``low`` and not above ``high``; where.

    Args:
        numbers: (n,) float32, not negative.

    Returns:
        count, (k,) float32 and (k,) int64, ascending, the last of which the next call in this
        thread may overwrite.
    """
    if fits(numbers):
        size = -(-numbers.numel() // 8) * 8
        inside = buffer("inside", (1, size // 4), numbers.device)[0].view(torch.uint8)
        places = buffer("places", (1, 2 * size + 2), numbers.device)[0].view(torch.int64)
        words = inside.view(torch.int64)
        above = _mark(array(numbers), np.float32(low), np.float32(high), array(inside))
        found = places[: _places(array(inside), array(words), array(places))]
        return above, numbers[found], found
    larger = torch.hardshrink(numbers, high)
    inside = torch.hardshrink(numbers, low).sub_(larger)
    at = places_of(inside)
    return int(larger.sign_().sum()), inside[at], at  # below 2²⁴: exact


@compiled
def _mark(numbers: Any, low: Any, high: Any, inside: Any) -> Any:
    """How many are above ``high``; 1 for those between, and zeros up to the end."""
    above: Any = 0
    for j in range(numbers.size):
        above += np.int32(numbers[j] > high)
        inside[j] = (numbers[j] > low) & (numbers[j] <= high)
    inside[numbers.size :] = 0
    return above


@compiled
def _places(inside: Any, words: Any, places: Any) -> Any:
    """How many ones there are, and where; ``words`` are the same bytes by eights, mostly zero."""
    count: Any = 0
    for word in range(words.size):
        if words[word]:
            for j in range(8 * word, 8 * word + 8):  # without a branch: it would be mispredicted
                places[count] = j
                count += inside[j]
    return count


def cuts_between_bounds(
    scores: Callable[[], Iterator[tuple[int, Tensor]]],
    sample: Tensor,
    size: int,
    wanted: Sequence[tuple[int, int]],
) -> dict[tuple[int, int], Cut]:
    """Where the largest numbers of some rows end; nothing if the sample misled.

    What lies beyond the upper bound is counted; what lies between the bounds is gathered.

    Args:
        scores: gives flat index and (S, n) non-negative float32, in order.
        sample: (S, b, n) of them.
        size: how many there are in a row.
        wanted: rows and how many of their largest numbers shall be in.
    """
    limits = [bounds(sample[row].numpy(), count / size) for row, count in wanted]
    beyond = torch.zeros(len(wanted), dtype=torch.float64)
    piles = []
    for (row, _), (low, high) in zip(wanted, limits, strict=True):
        share = ((sample[row] > low) & (sample[row] <= high)).double().mean()
        piles.append(Pile([torch.float32, torch.int64], int(1.2 * size * float(share))))
    for start, found in scores():
        for number, ((row, _), (low, high)) in enumerate(zip(wanted, limits, strict=True)):
            above, numbers, places = between(found[row].reshape(-1), low, high)
            piles[number].add(numbers, places + start)
            beyond[number] += above
    cuts: dict[tuple[int, int], Cut] = {}
    for (row, count), pile, above_count in zip(wanted, piles, beyond, strict=True):
        numbers, indices = pile.columns
        missing = count - int(above_count)
        if not 0 < missing <= numbers.numel():
            return {}
        cuts[row, count] = exact_cut(numbers, indices, missing)
    return cuts
