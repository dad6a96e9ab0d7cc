"""Exact order statistics of numbers that are read tile by tile and never all held in memory.

For a large tensor a sample gives bounds on the k-th largest number, and one pass gathers what lies
between them. For a small one, or if the sample misled, a histogram over the leading bits of float32
finds the bin of the k-th largest, and a second pass gathers that bin. Cuts, histograms and bins are
cached within a budget: a k that was asked for before, or one in a cached bin, needs no pass.

Source: rules R3 (of equal numbers the one with the lower index is larger) and R13.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from evomerge.kernels.bounds import cuts_between_bounds
from evomerge.kernels.cuts import ALL, NONE, Cut, below_float, exact_cut, places_of
from evomerge.kernels.memory import GrowingColumns

_SHIFT = 16  # leading bits of a non-negative float32 left in a bin's number: 8 + 7
_BINS = 1 << (31 - _SHIFT)
_KEPT_BINS = 8
_KEPT_CUTS = 64


Scores = Callable[[], Iterator[tuple[int, Tensor]]]


class Ranking:
    """Finds the k-th largest number of each of S rows, for any k.

    Args:
        scores: yields, at each call from the start, flat index and (S, n) non-negative float32.
        sample: gives (S, b, n) of the numbers; None if a sample would not pay.
        size: numbers in a row; needed with a sample.
    """

    def __init__(
        self, scores: Scores, sample: Callable[[], Tensor] | None = None, size: int = 0
    ) -> None:
        self._scores, self._sample, self._size = scores, sample, size
        self._lock = threading.Lock()
        self._sampled: dict[tuple[int, int], Cut] = {}  # cuts found with a sample
        self._above: Tensor | None = None  # (S, bins + 1): numbers in this bin and above
        self._members: OrderedDict[tuple[int, int], tuple[Tensor, Tensor]] = OrderedDict()

    def above(self) -> Tensor:
        """(S, bins + 1) int64: how many numbers lie in each bin and those above it."""
        if self._above is None:
            counts: Tensor | None = None
            for _, scores in self._scores():
                bins = scores.view(torch.int32) >> _SHIFT
                histogram = torch.stack([torch.bincount(row, minlength=_BINS) for row in bins])
                counts = histogram if counts is None else counts.add_(histogram)
            if counts is None:
                counts = torch.zeros((1, _BINS), dtype=torch.int64)
            total = counts.flip(1).cumsum(1).flip(1)
            self._above = torch.nn.functional.pad(total, (0, 1)).cpu()
        return self._above

    def positive(self, row: int) -> int:
        """How many numbers of a row are at least 2⁻¹²⁶; smaller ones count as zero."""
        return int(self.above()[row, 1 << (23 - _SHIFT)])

    def cuts_at(self, wanted: list[tuple[int, int]]) -> list[Cut]:
        """The cut of each wanted (row, k), all found in the same passes.

        Args:
            wanted: rows, and how many of the largest numbers lie above the cut; a row may recur.
        """
        with self._lock:
            cuts = self._find(wanted)
        _keep_within_budget(self)
        return cuts

    def forget(self) -> bool:
        """Drop what is cached, unless a thread is using it; whether it was dropped."""
        if not self._lock.acquire(blocking=False):
            return False
        self._above, self._sampled = None, {}
        self._members.clear()
        self._lock.release()
        return True

    @property
    def nbytes(self) -> int:
        """Bytes of what is cached."""
        tensors = [t for pair in list(self._members.values()) for t in pair]
        above = self._above
        return sum(t.nbytes for t in tensors) + (0 if above is None else above.nbytes)

    def _find(self, wanted: list[tuple[int, int]]) -> list[Cut]:
        if all(key in self._sampled for key in wanted):
            return [self._sampled[key] for key in wanted]
        sample = self._sample if self._above is None else None
        if sample is not None and all(0 < count < self._size for _, count in wanted):
            cuts = cuts_between_bounds(self._scores, sample(), self._size, wanted)
            if cuts:
                if len(self._sampled) > _KEPT_CUTS:
                    self._sampled.clear()
                self._sampled |= cuts
                return [cuts[key] for key in wanted]
        above = self.above()
        # the highest bin with at least ``count`` numbers in it and above; zeros need no search
        places = [
            int((above[row] >= count).sum()) - 1 if 0 < count <= self.positive(row) else None
            for row, count in wanted
        ]
        found = zip(wanted, places, strict=True)
        self._gather({(row, place) for (row, _), place in found if place is not None})
        return [
            exact_cut(*self._members[row, place], count - int(above[row, place + 1]))
            if place is not None
            else (ALL if count > 0 else NONE)
            for (row, count), place in zip(wanted, places, strict=True)
        ]

    def _gather(self, wanted: set[tuple[int, int]]) -> None:
        missing = wanted - self._members.keys()
        for key in wanted - missing:
            self._members.move_to_end(key)
        if not missing:
            return
        above = self.above()
        tables = {}
        for row, place in missing:
            size = int(above[row, place] - above[row, place + 1])
            tables[row, place] = GrowingColumns([torch.float32, torch.int64], size)
        for start, scores in self._scores():
            for row, place in missing:
                tables[row, place].add(*_members(scores[row], place, start))
        for key, table in tables.items():
            numbers, places = table.columns
            self._members[key] = numbers, places
        while len(self._members) > max(_KEPT_BINS * above.shape[0], len(wanted)):
            self._members.popitem(last=False)


def _members(scores: Tensor, place: int, start: int) -> tuple[Tensor, Tensor]:
    """The numbers in one bin, and their flat indices."""
    low, high = (
        float(torch.tensor(edge << _SHIFT, dtype=torch.int32).view(torch.float32))
        for edge in (place, place + 1)
    )
    shrink = torch.nn.functional.hardshrink
    inside = shrink(scores, below_float(low)) - shrink(scores, below_float(high))
    places = places_of(inside)
    return inside[places], places + start


# What all rankings of a process may cache between candidates.
BUDGET_BYTES = 1 << 28
_kept: OrderedDict[int, tuple[weakref.ref[Ranking], int]] = OrderedDict()
_budget = threading.Lock()


def _keep_within_budget(used: Ranking) -> None:
    """Note what a ranking caches, and empty those used longest ago if all are too large."""
    with _budget:
        _kept[id(used)] = (weakref.ref(used), used.nbytes)
        _kept.move_to_end(id(used))
        total = sum(size for _, size in _kept.values())
        for key in list(_kept)[:-1]:
            if total <= BUDGET_BYTES:
                return
            ranking, size = _kept[key][0](), _kept[key][1]
            if ranking is None or ranking.forget():
                del _kept[key]
                total -= size
