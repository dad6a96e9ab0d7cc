"""The elements that vary most from source to source, and how large the task vectors are there."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.bounds import between, bounds
from evomerge.kernels.compiled import LANES, array, compiled, fits
from evomerge.kernels.cuts import NONE, Cut, keep
from evomerge.kernels.measures import Measures, measures, sums
from evomerge.kernels.memory import Pile, scratch
from evomerge.kernels.stack import Stack, Tile

_LEAST = 1 << 18  # elements from which on a sample pays


class Selection(NamedTuple):
    """The selected elements.

    Attributes:
        cut: of the numbers of `variation`.
        squares: (M,) float64, Σ τ_i² over the elements.
    """

    cut: Cut
    squares: Tensor


def selected(x: Stack, fraction: float) -> Selection:
    """The ⌊s·n'⌋ elements of largest variance, of the n' where it is not zero (rule R3).

    Args:
        x: M task vectors.
        fraction: s in [0, 1).
    """
    measure = measures(x)
    latest: dict[float, Selection] = measure.once("selection", dict)
    found = latest.get(fraction)
    if found is None:
        found = _at_once(x, measure, fraction) or _by_ranking(measure, fraction)
        latest.clear()  # a search that varies the fraction would fill the memory
        latest[fraction] = found
    return found


def mask(tile: Tile, cut: Cut) -> Tensor:
    """1 for the selected elements, else 0, shaped as one source's."""
    return keep(variation(tile)[0], cut, tile.start).sign_().view(tile.values.shape[1:])


def variation(tile: Tile) -> Tensor:
    """(1, n) numbers that rank elements as their variance over the sources does."""
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
    shifted = values - values[0]  # or the mean of equal values might miss them by a rounding error
    mean = shifted.mean(0)
    for one in shifted:
        total += torch.sub(one, mean, out=scratch("pair", total)).square_()
    return total.view(1, -1)


def _by_ranking(measure: Measures, fraction: float) -> Selection:
    """By exact ranks, whatever the numbers are like."""
    varying = measure.ranking(variation, "variance").positive(0)
    cut = measure.cuts(variation, [_count(fraction, varying)], "variance")[0]

    def kernel(tile: Tile) -> Tensor:
        inside = mask(tile, cut)
        return sums(tile.values.square_().mul_(inside).flatten(1))

    return Selection(cut, measure.total(kernel))


def _at_once(x: Stack, measure: Measures, fraction: float) -> Selection | None:
    """The same from a single pass, if a sample tells about where the last one lies.

    What lies beyond the sample's upper bound is added up; what lies between the bounds is
    gathered and sorted. None if the last one lies outside of them.
    """
    if x.size < _LEAST or x.by_row or fraction <= 0:
        return None
    low, high = _bounds(x, fraction)
    near = Pile([torch.float32, torch.int64, *[torch.float32] * x.count], x.size // 16)

    def kernel(tile: Tile) -> Tensor:
        scores = variation(tile)[0]
        above, numbers, places = between(scores, low, high)
        values = tile.values.flatten(1)
        near.add(numbers, places + tile.start, *values[:, places].square_())
        counts = torch.tensor([int(scores.count_nonzero()), above], dtype=torch.float64)
        return torch.cat([counts.to(values.device), _squares_beyond(values, scores, high)])

    total = measure.total(kernel)
    varying, beyond = (int(number) for number in total[:2])
    count = _count(fraction, varying)
    missing = count - beyond
    gathered, indices, *squares_M = near.columns
    numbers, places = gathered.numpy(), indices.numpy()
    if not 0 < missing <= numbers.size:
        return Selection(NONE, torch.zeros_like(total[2:])) if count == 0 else None
    value = np.sort(numbers)[-missing]  # among many equals `np.partition` is slower
    larger = numbers > value
    last = places[np.flatnonzero(numbers == value)[missing - np.count_nonzero(larger) - 1]]
    inside = larger | ((numbers == value) & (places <= last))
    taken = torch.from_numpy(inside)
    more = torch.stack([(squares * taken).sum(dtype=torch.float64) for squares in squares_M])
    return Selection(Cut(float(value), int(last)), total[2:] + more)


def _count(fraction: float, varying: int) -> int:
    return math.floor(fraction * varying + 1e-6)


def _bounds(x: Stack, fraction: float) -> tuple[float, float]:
    """Between which numbers the last selected one most probably lies."""
    blocks = np.concatenate([variation(tile).cpu().numpy().copy() for tile in x.sample()])
    return bounds(np.where(blocks > 0, blocks, -1), fraction)


def _squares_beyond(values_MN: Tensor, scores: Tensor, high: float) -> Tensor:
    """(M,) float64: Σ τ_i² over the elements whose scores exceed ``high``."""
    if fits(values_MN, scores):
        found = _sum_squares(array(values_MN), array(scores), np.float32(high))
        return torch.from_numpy(found)
    return sums(values_MN.square() * (scores > high))


@compiled
def _sum_squares(values_MN: Any, scores: Any, high: Any) -> Any:
    count, size = values_MN.shape
    found = np.empty(count)
    lanes = np.empty(LANES)
    whole = size // LANES * LANES
    for i in range(count):
        lanes[:] = 0.0
        for start in range(0, whole, LANES):
            for lane in range(LANES):
                value = values_MN[i, start + lane]
                lanes[lane] += value * value if scores[start + lane] > high else np.float32(0)
        found[i] = lanes.sum()
        for j in range(whole, size):
            value = values_MN[i, j]
            found[i] += value * value if scores[j] > high else np.float32(0)
    return found
