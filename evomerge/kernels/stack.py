"""The input of an operator: the tensors of one name, read tile by tile in float32.

Every operator is written against a `Stack`. Whether its tensors lie in memory or in mapped files,
on a CPU or a GPU, they are cut into the same tiles, so that the result is the same to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from evomerge.errors import OperatorError
from evomerge.kernels.bounds import BLOCK, BLOCKS
from evomerge.kernels.memory import buffer
from evomerge.kernels.passes import read
from evomerge.kernels.random import uniforms
from evomerge.recipes import Lineage

TILE = 1 << 18  # elements: a few tiles fit a CPU's cache, and Python's overhead stays small
_DEVICE_TILE = 1 << 24  # on a GPU, where a launch costs more than the cache saves

Cache = MutableMapping[Any, Any]


class LazyTensor(Protocol):
    """A tensor that is computed when it is read, such as an embedding aligned to a tokenizer."""

    @property
    def shape(self) -> Sequence[int]:
        """The whole tensor's shape."""

    def slice(self, start: int, stop: int) -> Tensor:
        """(stop - start,) the flat elements [start, stop), of any float dtype."""


Input = Tensor | LazyTensor


def stretch(tensor: Input, start: int, stop: int) -> Tensor:
    """(stop - start,) the flat elements [start, stop) of a tensor, in its own dtype."""
    if isinstance(tensor, Tensor):
        return tensor.reshape(-1)[start:stop]
    return tensor.slice(start, stop)


class NotFiniteError(OperatorError):
    """An input of an operator holds a NaN or an infinity.

    Args:
        name: the tensor's.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"{name or 'an input'}: holds a NaN or an infinity")


@dataclass(slots=True)
class Tile:
    """n consecutive elements of each of a stack's tensors, in float32.

    Attributes:
        values: (M, n) float32, or (M, r, c) for whole rows; a kernel may overwrite it.
        base: (n,) or (r, c) float32; None where there is no base.
        start: flat index of the first element.
        stack: where the elements are from.
        draws: how often `uniforms` has been called.
    """

    values: Tensor
    base: Tensor | None
    start: int
    stack: Stack
    draws: int = 0

    def uniforms(self) -> Tensor:
        """Random numbers in [0, 1), shaped as ``values``, new ones at each call (rule R12).

        They depend on seed, tensor name, source and number of the call alone. The caller may
        overwrite them; the next call in this thread does.
        """
        x, start, stop = self.stack, self.start, self.start + self.values[0].numel()
        if x.fixed_uniforms is not None:
            drawn = x.fixed_uniforms.view(x.count, -1)[:, start:stop].float().clone()
        else:
            drawn = buffer("uniforms", (x.count, stop - start), torch.device("cpu"))
            again = f"\0{self.draws}" if self.draws else ""
            for row, label in zip(drawn, x.labels, strict=True):
                uniforms(f"{x.seed}\0{x.name}\0{label}{again}", start, stop, row)
        self.draws += 1
        return drawn.to(self.values.device).view(self.values.shape)

    def of(self, tensors: Sequence[Input]) -> Tensor:
        """The tile's elements of other tensors of the stack's shape: float32, as ``values``."""
        size = self.values[0].numel()
        parts = [stretch(t, self.start, self.start + size).float() for t in tensors]
        return torch.stack(parts).to(self.values.device).view(-1, *self.values.shape[1:])


Kernel = Callable[[Tile], Tensor]


@dataclass(frozen=True, slots=True)
class Tiles:
    """A merged tensor that is yet to be computed, tile by tile.

    Attributes:
        stack: whose tiles.
        kernel: tile to its part of the result, (n,) or (r, c) float32.
        by_row: whether tiles hold whole rows.
        at_once: a faster way to the same bits, where there is one: (start, stop, factor) to (n,)
            float32, the kernel's result times the factor, plus the base if the stack holds task
            vectors. The next call in this thread may overwrite it.
    """

    stack: Stack
    kernel: Kernel
    by_row: bool = False
    at_once: Callable[[int, int, float], Tensor] | None = None


Merged = Tensor | Tiles


@dataclass(frozen=True)
class Stack:
    """The tensors of one name: M sources of one shape, and perhaps a base.

    Attributes:
        inputs: M tensors of any float dtype.
        base: a tensor of the same shape.
        deltas: whether tiles hold task vectors, source minus base, rather than weights.
        name: the tensor's; random numbers depend on it.
        labels: (M,) names of the sources; random numbers depend on them.
        role: one of ``evomerge.recipes.ROLES``.
        depth: l / (L - 1) in block l of L; None outside the blocks.
        statistics: (M,) recorded statistics, for operators that need some; None where a source
            has none for this tensor.
        seed: of the random numbers.
        device: where tiles are computed.
        fixed_uniforms: (M, *shape) in [0, 1), in place of random numbers.
        cache: measurements of these inputs, kept from candidate to candidate.
        identity: tells these inputs from others of the same name in ``cache``.
        model: gives the stacks of all tensors of the model, for operators of global scope.
        model_cache: as ``cache``, for the model as a whole.
        checked: whether the inputs are known to be finite.
        changes: kernels that every tile passes through when it is read.
        by_row: whether tiles must hold whole rows, (M, r, c).
        pieces: the flat index at which each piece of the tensor ends and the (M,) weights on it,
            for the operator ``segments``.
        lineage: the steps that lead to the model, for the operator ``segments``.
        offset: flat index of the tensor's first element in the model.
    """

    inputs: Sequence[Input]
    base: Input | None = None
    _: KW_ONLY
    deltas: bool = False
    name: str = ""
    labels: Sequence[str] = ()
    role: str = "other"
    depth: float | None = None
    statistics: Sequence[Input | None] = ()
    seed: int = 0
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    fixed_uniforms: Tensor | None = None
    cache: Cache = field(default_factory=dict)
    identity: tuple[Any, ...] = ()
    model: Callable[[], Sequence[Stack]] | None = None
    model_cache: Cache = field(default_factory=dict)
    checked: bool = False
    changes: tuple[Kernel, ...] = ()
    by_row: bool = False
    pieces: Sequence[tuple[int, Sequence[float]]] = ()
    lineage: Lineage | None = None
    offset: int = 0

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of every tensor."""
        return tuple(self.inputs[0].shape)

    @cached_property
    def size(self) -> int:
        """Elements of one tensor."""
        return math.prod(self.shape)

    @property
    def count(self) -> int:
        """M, the number of sources."""
        return len(self.inputs)

    def each(self, kernel: Kernel) -> Tiles:
        """A result that is computed element by element from the inputs."""
        return Tiles(self, kernel)

    def each_row(self, kernel: Kernel) -> Tiles:
        """A result that is computed row by row from the inputs (rule R11)."""
        return Tiles(self, kernel, by_row=True)

    def changed(self, kernel: Kernel, *, by_row: bool = False) -> Stack:
        """The stack with all tiles passed through a kernel that keeps their shape."""
        return replace(
            self,
            changes=(*self.changes, kernel),
            by_row=self.by_row or by_row,
            cache={},
            model_cache={},
            model=None,
        )

    def tiles(self, *, by_row: bool = False) -> Iterator[Tile]:
        """All tiles in order, each valid until the next one is read in this thread."""
        for start, stop in self.cuts_at(by_row=by_row):
            yield self.tile(start, stop, by_row=by_row)

    def cuts_at(self, *, by_row: bool = False) -> Iterator[tuple[int, int]]:
        """The flat indices at which tiles start and stop, which depend on the shape alone."""
        step = TILE if self.device.type == "cpu" else _DEVICE_TILE
        if by_row or self.by_row:
            step = self.row_length * max(1, step // max(1, self.row_length))
        for start in range(0, self.size, max(1, step)):
            yield start, min(start + step, self.size)

    @property
    def row_length(self) -> int:
        """Elements of a row: a vector is one row, a tensor has ``shape[0]`` (rule R11)."""
        return self.size if len(self.shape) < 2 else self.size // max(1, self.shape[0])

    def tile(self, start: int, stop: int, *, by_row: bool = False) -> Tile:
        """The flat elements [start, stop) of every tensor.

        Raises:
            NotFiniteError: an input holds a NaN or an infinity there.
        """
        shape: tuple[int, ...] = (stop - start,)
        if by_row or self.by_row:
            shape = ((stop - start) // max(1, self.row_length), self.row_length)
        base = None
        if self.base is not None:
            base = buffer("base", (1, stop - start), self.device)[0]
            read(stretch(self.base, start, stop), None, base)
        values = buffer("values", (self.count, stop - start), self.device)
        finite = [
            read(stretch(tensor, start, stop), base if self.deltas else None, row)
            for row, tensor in zip(values, self.inputs, strict=True)
        ]
        if not (self.checked or all(finite)):
            raise NotFiniteError(self.name)
        base = base if base is None else base.view(shape)
        tile = Tile(values.view(self.count, *shape), base, start, self)
        for change in self.changes:
            tile.values = change(tile)
        return tile

    def sample(self) -> Iterator[Tile]:
        """Short tiles, spread evenly over a stack of at least as many elements."""
        for number in range(BLOCKS):
            start = (self.size - BLOCK) * number // (BLOCKS - 1)
            yield self.tile(start, start + BLOCK)

    def whole(self) -> Tensor:
        """(M, *shape) float32: all values, for operators that need whole matrices."""
        whole = torch.empty((self.count, self.size), device=self.device)
        for tile in self.tiles():
            values = tile.values.flatten(1)
            whole[:, tile.start : tile.start + values.shape[1]] = values
        return whole.view(self.count, *self.shape)
