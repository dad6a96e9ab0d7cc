"""Numbers about a whole tensor, or a whole model, that an operator needs before it can start."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.errors import OperatorError
from evomerge.kernels.choices import Scope
from evomerge.kernels.compiled import LANES, array, compiled, fits
from evomerge.kernels.cuts import Cut
from evomerge.kernels.memory import doubled, scratch
from evomerge.kernels.ranks import Ranking
from evomerge.kernels.stack import Kernel, Known, Stack, Tile

_SAMPLED = 1 << 18  # elements from which on a sample pays
_lock = threading.RLock()
_LATEST = 8  # tensors of several roles may take turns with settings of their own
_RUN = 256


@dataclass(frozen=True, slots=True)
class Measures:
    """Measures one stack, or all stacks of a model laid end to end.

    Attributes:
        parts: the stacks, each with the flat index of its first element.
        own: index of the stack that asks, among them.
        known: where measurements of the inputs alone are kept.
    """

    parts: Sequence[tuple[int, Stack]]
    own: int
    known: Known

    @property
    def size(self) -> int:
        """Elements of one source."""
        offset, last = self.parts[-1]
        return offset + last.size

    @property
    def stack(self) -> Stack:
        """The one that asks."""
        return self.parts[self.own][1]

    def once(self, key: Any, measure: Callable[[], Any]) -> Any:
        """What ``measure`` gives, computed the first time only.

        Args:
            key: all that it depends on besides the inputs.
        """
        full = (key, self.stack.deltas, self.stack.identity)
        if full in self.known:
            return self.known[full]
        if len(self.parts) == 1:
            self.known[full] = measure()
            return self.known[full]
        with _lock:  # several tensors of a model ask at the same time
            if full not in self.known:
                self.known[full] = measure()
        return self.known[full]

    def latest(self, key: Any, settings: Any, measure: Callable[[], Any]) -> Any:
        """As `once`, but what belongs to settings of long ago is forgotten.

        Args:
            key: names the measurement.
            settings: all that it depends on besides the inputs; a search may vary them endlessly.
        """
        found: dict[Any, Any] = self.once((key, "latest"), dict)
        with _lock if len(self.parts) > 1 else nullcontext():
            if settings not in found:
                while len(found) >= _LATEST:
                    found.pop(next(iter(found)))
                found[settings] = measure()
            return found[settings]

    def tiles(self, *, by_row: bool = False) -> Iterator[tuple[int, Tile]]:
        """Every tile, with the flat index of its stack."""
        for offset, stack in self.parts:
            for tile in stack.tiles(by_row=by_row):
                yield offset, tile

    def total(self, kernel: Kernel, *, by_row: bool = False) -> Tensor:
        """The sum over all tiles of what the kernel gives, float64."""
        total: Tensor | None = None
        for _, tile in self.tiles(by_row=by_row):
            found = kernel(tile).double()
            total = found if total is None else total + found
        if total is None:
            raise ValueError("no elements to sum over")
        return total.cpu()

    def gram(self) -> Tensor:
        """(M, M) float64: inner products of the sources' values."""

        def measure() -> Tensor:
            return self.total(lambda tile: inner_products(tile.values.flatten(1)))

        found: Tensor = self.once("gram", measure)
        return found

    def cuts(self, kernel: Kernel, counts: Sequence[int], key: Any = None) -> list[Cut]:
        """Where the largest of some numbers end, counted from the asking stack's first element.

        Args:
            kernel: tile to (S, n) non-negative float32.
            counts: (S,) how many shall be in.
            key: names the kernel if its numbers depend on the inputs alone; they are then kept.
        """
        ranking = self.ranking(kernel, key)
        offset = self.parts[self.own][0]
        with _lock if len(self.parts) > 1 else threading.Lock():
            return [cut.moved(offset) if cut.last >= 0 else cut for cut in ranking.cuts([*counts])]

    def ranking(self, kernel: Kernel, key: Any = None, *, by_row: bool = False) -> Ranking:
        """The ranks of the kernel's numbers; arguments as for `cuts`, tiles as for `total`."""

        def scores() -> Iterator[tuple[int, Tensor]]:
            for offset, tile in self.tiles(by_row=by_row):
                yield offset + tile.start, kernel(tile)

        own = self.stack

        def sample() -> Tensor:
            parts = [kernel(tile).flatten(1).cpu().clone() for tile in own.sample()]
            return torch.stack(parts, dim=1)

        pays = len(self.parts) == 1 and not (by_row or own.by_row) and own.size >= _SAMPLED
        ranking = Ranking(scores, sample if pays else None, own.size)
        if key is None:
            return ranking
        found: Ranking = self.once(("ranking", key), lambda: ranking)
        return found


def measures(stack: Stack, scope: Scope = "tensor", *, every: bool = False) -> Measures:
    """What there is to measure around a stack.

    Args:
        scope: ``global`` for all tensors of the model that the same sources have.
        every: also those that only some of the sources have.

    Raises:
        OperatorError: the whole model is wanted of task vectors that a modifier has changed.
    """
    if scope == "global" and stack.changes:
        raise OperatorError(
            f"{stack.name}: what looks at the whole model cannot follow sparsify or compeft. "
            "Set scope: tensor, or leave the modifiers out."
        )
    if scope == "tensor" or stack.model is None:
        return Measures([(0, stack)], 0, stack.known)
    parts, offset, own = [], 0, 0
    labels = tuple(stack.labels)
    alike = [other for other in stack.model() if every or tuple(other.labels) == labels]
    for index, other in enumerate(alike):
        parts.append((offset, other))
        own = index if other.name == stack.name else own
        offset += other.size
    return Measures(parts, own, stack.model_known)


def magnitude(tile: Tile) -> Tensor:
    """|value|, the usual number to rank by, in memory that the next tile overwrites."""
    return torch.abs(tile.values, out=scratch("magnitude", tile.values))


def sums(values_MN: Tensor) -> Tensor:
    """(M,) float64 sums of float32 numbers of one sign; overwrites no input.

    In float32 only 256 numbers are ever added up, in an order that no machine changes: that takes
    a third of the time, and keeps six digits of each such sum.
    """
    count, size = values_MN.shape
    if size % _RUN:
        return doubled(values_MN).sum(1)
    return values_MN.view(count, _RUN, -1).sum(1).double().sum(1)


def inner_products(values_MN: Tensor) -> Tensor:
    """(M, M) float64."""
    if fits(values_MN):
        return torch.from_numpy(_inner_products(array(values_MN)))
    values = doubled(values_MN)
    return values @ values.T


def products(first: Tensor, second: Tensor) -> tuple[float, float, float]:
    """⟨x, x⟩, ⟨x, y⟩ and ⟨y, y⟩ of two (n,) float32 on the CPU, the same bits on every machine."""
    found: tuple[float, float, float] = _products(array(first), array(second))
    return found


@compiled
def _products(x: Any, y: Any) -> Any:
    lanes = np.zeros((3, LANES))
    xx, xy, yy = lanes[0], lanes[1], lanes[2]
    whole = x.size // LANES * LANES
    for start in range(0, whole, LANES):
        # of stretches, not of x and y: else these three loops become no vector instructions
        p, q = x[start : start + LANES], y[start : start + LANES]
        for lane in range(LANES):
            xx[lane] += np.float64(p[lane]) * np.float64(p[lane])
        for lane in range(LANES):
            xy[lane] += np.float64(p[lane]) * np.float64(q[lane])
        for lane in range(LANES):
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
    lanes = np.empty(LANES)
    whole = size // LANES * LANES
    for one in range(count):
        for other in range(one, count):
            a, b = values[one], values[other]
            lanes[:] = 0.0
            for start in range(0, whole, LANES):
                for lane in range(LANES):
                    lanes[lane] += np.float64(a[start + lane]) * np.float64(b[start + lane])
            total = lanes.sum()
            for j in range(whole, size):
                total += np.float64(a[j]) * np.float64(b[j])
            gram[one, other] = gram[other, one] = total
    return gram
