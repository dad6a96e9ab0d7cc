"""The elements that vary most between sources, and the size of the task vectors there."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.bounds import between, bounds
from evomerge.kernels.compiled import SIMD_LANES, array, compiled, fits
from evomerge.kernels.cuts import NONE, Cut, exact_cut, keep
from evomerge.kernels.measures import SAMPLED, Measures, measures, sums
from evomerge.kernels.memory import GrowingColumns, scratch
from evomerge.kernels.stack import Stack, Tile


class Selection(NamedTuple):
    """The elements of largest variance over the sources.

    Attributes:
        cut: of the numbers that `variation` gives.
        squares: (M,) float64, Σ τ_i² over these elements.
    """

    cut: Cut
    squares: Tensor


def selected(x: Stack, fraction: float) -> Selection:
    """The ⌊s·n'⌋ elements of largest variance, n' being those of nonzero variance (rule R3).

    Args:
        x: M task vectors.
        fraction: s in [0, 1).
    """
    measure = measures(x)
    return measure.latest(
        "selection",
        fraction,
        lambda: _at_once(x, measure, fraction) or _by_ranking(measure, fraction),
    )


def mask(tile: Tile, cut: Cut) -> Tensor:
    """1 for the selected elements of a tile, else 0, shaped as one source's values."""
    return keep(variation(tile)[0], cut, tile.start).sign_().view(tile.values.shape[1:])


def variation(tile: Tile) -> Tensor:
    """(1, n) numbers in the order of the elements' variances over the sources."""
    values = tile.values.flatten(1)
    total = scratch("variation", values[0])
    if len(values) == 2:
        return torch.sub(values[0], values[1], out=total).abs_().view(1, -1)
    # M² var = Σ (τ_i - τ_j)² over the pairs: exactly zero where sources agree
    total.zero_()
    if len(values) == 3:
        for one, other in combinations(values, 2):
            total += torch.sub(one, other, out=scratch("pair", total)).square_()
        return total.view(1, -1)
    shifted = values - values[0]  # or rounding the mean of equal values would make a variance
    mean = shifted.mean(0)
    for one in shifted:
        total += torch.sub(one, mean, out=scratch("pair", total)).square_()
    return total.view(1, -1)


def _by_ranking(measure: Measures, fraction: float) -> Selection:
    """The selection by exact ranks, in two or three passes."""
    varying = measure.ranking(variation, "variance").positive(0)
    cut = measure.cuts(variation, [_count(fraction, varying)], "variance")[0]

    def kernel(tile: Tile) -> Tensor:
        inside = mask(tile, cut)
        return sums(tile.values.square_().mul_(inside).flatten(1))

    return Selection(cut, measure.total(kernel))


def _at_once(x: Stack, measure: Measures, fraction: float) -> Selection | None:
    """The selection in a single pass, with bounds on its cut from a sample; None if they fail.

    The squares of elements above the upper bound are added up; elements between the bounds are
    gathered and sorted.
    """
    if x.size < SAMPLED or x.by_row or fraction <= 0:
        return None
    blocks = np.concatenate([variation(tile).cpu().numpy().copy() for tile in x.sample()])
    low, high = bounds(np.where(blocks > 0, blocks, -1), fraction)
    near = GrowingColumns([torch.float32, torch.int64, *[torch.float32] * x.count], x.size // 16)

    def kernel(tile: Tile) -> Tensor:
        scores = variation(tile)[0]
        above, numbers, places = between(scores, low, high)
        values = tile.values.flatten(1)
        near.add(numbers, places + tile.start, *values[:, places].square_())
        counts = torch.tensor([int(scores.count_nonzero()), above], dtype=torch.float64)
        if fits(values, scores):
            beyond = _sum_squares(array(values), array(scores), np.float32(high))
            return torch.cat([counts, torch.from_numpy(beyond)])
        beyond_M = sums(values.square() * (scores > high))
        return torch.cat([counts.to(values.device), beyond_M])

    total = measure.total(kernel)
    varying, beyond = (int(number) for number in total[:2])
    count = _count(fraction, varying)
    missing = count - beyond
    gathered, indices, *squares_M = near.columns
    if not 0 < missing <= gathered.numel():
        return Selection(NONE, torch.zeros_like(total[2:])) if count == 0 else None
    cut = exact_cut(gathered, indices, missing)
    taken = (gathered > cut.value) | ((gathered == cut.value) & (indices <= cut.last))
    more = torch.stack([(squares * taken).sum(dtype=torch.float64) for squares in squares_M])
    return Selection(cut, total[2:] + more)


def _count(fraction: float, varying: int) -> int:
    return math.floor(fraction * varying + 1e-6)


@compiled
def _sum_squares(values_MN: Any, scores: Any, high: Any) -> Any:
    """(M,) float64: Σ τ_i² over the elements with scores above ``high``."""
    count, size = values_MN.shape
    squares = np.empty(count)
    lanes = np.empty(SIMD_LANES)
    whole = size // SIMD_LANES * SIMD_LANES
    for i in range(count):
        lanes[:] = 0.0
        for start in range(0, whole, SIMD_LANES):
            for lane in range(SIMD_LANES):
                value = values_MN[i, start + lane]
                lanes[lane] += value * value if scores[start + lane] > high else np.float32(0)
        squares[i] = lanes.sum()
        for j in range(whole, size):
            value = values_MN[i, j]
            squares[i] += value * value if scores[j] > high else np.float32(0)
    return squares
