"""Sums, inner products and order statistics of a whole tensor, or of a whole model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from evomerge.errors import OperatorError
from evomerge.kernels.choices import Scope
from evomerge.kernels.compiled import SIMD_LANES, array, compiled, fits
from evomerge.kernels.cuts import Cut
from evomerge.kernels.memory import doubled, scratch
from evomerge.kernels.ranks import Ranking
from evomerge.kernels.stack import Cache, Kernel, Stack, Tile

T = TypeVar("T")
SAMPLED = 1 << 18  # elements above which sampling pays
_lock = threading.RLock()
_LATEST = 8  # tensors of different roles may have different settings in one candidate
_RUN = 256


@dataclass(frozen=True, slots=True)
class Measures:
    """Sums and order statistics of one tensor, or of all tensors of a model laid end to end.

    Attributes:
        parts: the tensors' stacks, each with the flat index of its first element.
        own: index among them of the stack being merged.
        cache: where measurements that depend on the inputs alone are kept.
    """

    parts: Sequence[tuple[int, Stack]]
    own: int
    cache: Cache

    @property
    def size(self) -> int:
        """Elements of one source, over all parts."""
        offset, last = self.parts[-1]
        return offset + last.size

    @property
    def stack(self) -> Stack:
        """The stack being merged."""
        return self.parts[self.own][1]

    def once(self, key: Any, measure: Callable[[], T]) -> T:
        """The result of ``measure()``, computed at the first call with this key only.

        Args:
            key: all that the result depends on besides the inputs.
        """
        full = (key, self.stack.deltas, self.stack.identity)
        if full not in self.cache:
            # several tensors of a model ask at the same time
            with _lock if len(self.parts) > 1 else nullcontext():
                if full not in self.cache:
                    self.cache[full] = measure()
        result: T = self.cache[full]
        return result

    def latest(self, key: Any, settings: Any, measure: Callable[[], T]) -> T:
        """The result of ``measure()``, as `once`, but kept for the last few settings only.

        Args:
            key: names the measurement.
            settings: all that the result depends on besides the inputs; a search may vary them
                without end.
        """
        results: dict[Any, T] = self.once((key, "latest"), dict)
        with _lock if len(self.parts) > 1 else nullcontext():
            if settings not in results:
                while len(results) >= _LATEST:
                    results.pop(next(iter(results)))
                results[settings] = measure()
            return results[settings]

    def tiles(self, *, by_row: bool = False) -> Iterator[tuple[int, Tile]]:
        """Every tile, with the flat index of its stack's first element."""
        for offset, stack in self.parts:
            for tile in stack.tiles(by_row=by_row):
                yield offset, tile

    def total(self, kernel: Kernel, *, by_row: bool = False) -> Tensor:
        """The sum of the kernel's results over all tiles, float64 on the CPU."""
        total: Tensor | None = None
        for _, tile in self.tiles(by_row=by_row):
            part = kernel(tile).double()
            total = part if total is None else total + part
        if total is None:
            raise ValueError("no elements to sum over")
        return total.cpu()

    def gram(self) -> Tensor:
        """(M, M) float64: the inner products of the sources' values."""
        return self.once(
            "gram", lambda: self.total(lambda tile: inner_products(tile.values.flatten(1)))
        )

    def cuts(self, kernel: Kernel, counts: Sequence[int], key: Any = None) -> list[Cut]:
        """(S,) thresholds above which the largest numbers lie, for the stack being merged.

        Args:
            kernel: tile to (S, n) non-negative float32.
            counts: (S,) how many numbers of each row lie above its threshold.
            key: names the kernel if its numbers depend on the inputs alone: ranks are then kept.
        """
        ranking = self.ranking(kernel, key)
        offset = self.parts[self.own][0]
        with _lock if len(self.parts) > 1 else nullcontext():
            found = ranking.cuts_at([*enumerate(counts)])
        return [Cut(cut.value, cut.last - offset) if cut.last >= 0 else cut for cut in found]

    def ranking(self, kernel: Kernel, key: Any = None, *, by_row: bool = False) -> Ranking:
        """Order statistics of the kernel's numbers; arguments as for `cuts`."""

        def scores() -> Iterator[tuple[int, Tensor]]:
            for offset, tile in self.tiles(by_row=by_row):
                yield offset + tile.start, kernel(tile)

        own = self.stack

        def sample() -> Tensor:
            parts = [kernel(tile).flatten(1).cpu().clone() for tile in own.sample()]
            return torch.stack(parts, dim=1)

        pays = len(self.parts) == 1 and not (by_row or own.by_row) and own.size >= SAMPLED
        ranking = Ranking(scores, sample if pays else None, own.size)
        return ranking if key is None else self.once(("ranking", key), lambda: ranking)


def measures(stack: Stack, scope: Scope = "tensor", *, every: bool = False) -> Measures:
    """Measurements of a stack, or of its whole model.

    Args:
        scope: ``tensor``, or ``global`` for all tensors of the model that the same sources have.
        every: include the tensors that only some of the sources have.

    Raises:
        OperatorError: ``global`` scope, on task vectors that a modifier has changed.
    """
    if scope == "global" and stack.changes:
        raise OperatorError(
            f"{stack.name}: what looks at the whole model cannot follow sparsify or compeft. "
            "Set scope: tensor, or leave the modifiers out."
        )
    if scope == "tensor" or stack.model is None:
        return Measures([(0, stack)], 0, stack.cache)
    parts, offset, own = [], 0, 0
    labels = tuple(stack.labels)
    alike = [other for other in stack.model() if every or tuple(other.labels) == labels]
    for index, other in enumerate(alike):
        parts.append((offset, other))
        own = index if other.name == stack.name else own
        offset += other.size
    return Measures(parts, own, stack.model_cache)


def magnitude(tile: Tile) -> Tensor:
    """(M, n) magnitudes of a tile's values; the next call in this thread overwrites them."""
    return torch.abs(tile.values, out=scratch("magnitude", tile.values)).flatten(1)


def sums(values_MN: Tensor) -> Tensor:
    """(M,) float64: the sums of rows of float32 numbers of one sign.

    Runs of 256 numbers are added up in float32, in an order that is the same on every machine:
    that takes a third of the time, and keeps six digits of each run's sum.
    """
    count, size = values_MN.shape
    if size % _RUN:
        return doubled(values_MN).sum(1)
    return values_MN.view(count, _RUN, -1).sum(1).double().sum(1)


def inner_products(values_MN: Tensor) -> Tensor:
    """(M, M) float64: the inner products of M rows of float32."""
    if fits(values_MN):
        return torch.from_numpy(_inner_products(array(values_MN)))
    values = doubled(values_MN)
    return values @ values.T


def products(first: Tensor, second: Tensor) -> tuple[float, float, float]:
    """⟨x, x⟩, ⟨x, y⟩ and ⟨y, y⟩ of two (n,) float32 on the CPU."""
    xx, xy, yy = _products(array(first), array(second))
    return xx, xy, yy


def prefix_gram(x: Stack, stop: int) -> Tensor:
    """(M, M) float64: inner products of the sources' first ``stop`` elements.

    The order of the sums is that of the tiles, so that nobody else's ``stop`` changes a bit.
    """
    total = torch.zeros((x.count, x.count), dtype=torch.float64)
    for start, end in x.cuts_at():
        if start >= stop:
            break
        total = total + inner_products(x.tile(start, min(end, stop)).values.flatten(1))
    return total


@compiled
def _products(x: Any, y: Any) -> Any:
    lanes = np.zeros((3, SIMD_LANES))
    xx, xy, yy = lanes[0], lanes[1], lanes[2]
    whole = x.size // SIMD_LANES * SIMD_LANES
    for start in range(0, whole, SIMD_LANES):
        # slices: with indices into x and y the compiler would not vectorize these three loops
        p, q = x[start : start + SIMD_LANES], y[start : start + SIMD_LANES]
        for lane in range(SIMD_LANES):
            xx[lane] += np.float64(p[lane]) * np.float64(p[lane])
        for lane in range(SIMD_LANES):
            xy[lane] += np.float64(p[lane]) * np.float64(q[lane])
        for lane in range(SIMD_LANES):
            yy[lane] += np.float64(q[lane]) * np.float64(q[lane])
    for j in range(whole, x.size):
        a, b = np.float64(x[j]), np.float64(y[j])
        xx[0] += a * a
        xy[0] += a * b
        yy[0] += b * b
    return xx.sum(), xy.sum(), yy.sum()


@compiled
def _inner_products(values: Any) -> Any:
    """(M, M) float64."""
    count, size = values.shape
    gram = np.empty((count, count))
    lanes = np.empty(SIMD_LANES)
    whole = size // SIMD_LANES * SIMD_LANES
    for one in range(count):
        for other in range(one, count):
            a, b = values[one], values[other]
            lanes[:] = 0.0
            for start in range(0, whole, SIMD_LANES):
                for lane in range(SIMD_LANES):
                    lanes[lane] += np.float64(a[start + lane]) * np.float64(b[start + lane])
            total = lanes.sum()
            for j in range(whole, size):
                total += np.float64(a[j]) * np.float64(b[j])
            gram[one, other] = gram[other, one] = total
    return gram
