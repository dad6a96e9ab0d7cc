"""What an operator sees: the tensors of one name, read tile by tile in float32.

Every operator is written against a `Stack`. Whether its tensors lie in memory or in mapped files,
on a CPU or a GPU, they are cut at the same places, so that the result is the same to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from evomerge.errors import OperatorError
from evomerge.kernels.bounds import BLOCK, BLOCKS
from evomerge.kernels.memory import buffer
from evomerge.kernels.passes import read
from evomerge.kernels.uniforms import uniforms
from evomerge.recipes import Lineage

TILE = 1 << 18  # elements; a few of them in float32 fit the cache, and Python's share is small
_DEVICE_TILE = 1 << 24  # on a GPU, where a launch costs more than the cache saves

Known = MutableMapping[Any, Any]


@runtime_checkable
class Rows(Protocol):
    """A tensor that is put together when it is read, e.g. an embedding whose rows are matched."""

    @property
    def shape(self) -> Sequence[int]:
        """Of the whole tensor."""

    def slice(self, start: int, stop: int) -> Tensor:
        """The flat elements [start, stop)."""


Input = Tensor | Rows


class NotFiniteError(OperatorError):
    """A NaN or an infinity among the inputs of an operator.

    Args:
        name: of the tensor.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"{name or 'an input'}: holds a NaN or an infinity")


@dataclass(slots=True)
class Tile:
    """A stretch of a stack's elements.

    Attributes:
        values: (M, n) float32, or (M, r, c) for whole rows; a kernel may overwrite it.
        base: (n,) or (r, c) float32; None where there is no base.
        start: flat index of the first element.
        draws: how often its elements have been given random numbers.
    """

    values: Tensor
    base: Tensor | None
    start: int
    stack: Stack
    draws: int = 0

    def uniforms(self) -> Tensor:
        """Numbers in [0, 1), shaped as ``values``, other ones at each call; see rule R12.

        They may be overwritten.
        """
        size = self.values[0].numel()
        drawn = self.stack.draw(self.start, self.start + size, self.draws)
        self.draws += 1
        return drawn.to(self.values.device).view(self.values.shape)

    def of(self, tensors: Sequence[Input]) -> Tensor:
        """The same stretch of other tensors of the stack's shape, stacked, float32."""
        size = self.values[0].numel()
        found = [stretch(t, self.start, self.start + size).float() for t in tensors]
        return torch.stack(found).to(self.values.device).view(-1, *self.values.shape[1:])


Kernel = Callable[[Tile], Tensor]


@dataclass(frozen=True, slots=True)
class Tiles:
    """A result that is computed tile by tile.

    Attributes:
        stack: whose tiles.
        kernel: tile to its part of the result, (n,) or (r, c).
        by_row: whether tiles hold whole rows.
        at_once: where there is a faster way to the same bits, it takes where a stretch starts and
            stops and a factor, and gives (n,) float32: what the kernel gives, times the factor,
            the base added to task vectors. The next call in this thread may overwrite it.
    """

    stack: Stack
    kernel: Kernel
    by_row: bool = False
    at_once: Callable[[int, int, float], Tensor] | None = None


Merged = Tensor | Tiles


@dataclass(frozen=True)
class Stack:
    """M tensors of one name and shape, and perhaps a base.

    Attributes:
        inputs: M tensors of any float dtype.
        base: of the same shape.
        deltas: whether ``values`` are task vectors, source minus base, rather than weights.
        name: of the tensor; its random numbers depend on it.
        labels: (M,) names of the sources; likewise.
        role: as in ``evomerge.recipes.ROLES``.
        depth: l / (L - 1) in block l of L; None outside the blocks.
        statistics: (M,) recorded statistics, for the operators that need some; None where a
            source has none for this tensor.
        seed: of the random numbers.
        known: what has been measured of these inputs, kept from candidate to candidate.
        identity: tells these inputs from others of the same name, for ``known``.
        model: all stacks of the model, this one among them, for operators of global scope.
        model_known: as ``known``, for the model as a whole.
        checked: whether the inputs are known to be finite.
        changes: what is done to every tile that is read.
        by_row: whether tiles must hold whole rows, (M, r, c).
        pieces: where pieces of the tensor end, and the (M,) weights on each, for the operator that
            has other weights on every piece.
        lineage: the steps that lead to the model, for the operator that carries them out.
        offset: which of the model's elements is the tensor's first.
    """

    inputs: Sequence[Input]
    base: Input | None = None
    deltas: bool = False
    name: str = ""
    labels: Sequence[str] = ()
    role: str = "other"
    depth: float | None = None
    statistics: Sequence[Input | None] = ()
    seed: int = 0
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    given_uniforms: Tensor | None = None
    known: Known = field(default_factory=dict)
    identity: tuple[Any, ...] = ()
    model: Callable[[], Sequence[Stack]] | None = None
    model_known: Known = field(default_factory=dict)
    checked: bool = False
    changes: tuple[Kernel, ...] = ()
    by_row: bool = False
    pieces: Sequence[tuple[int, Sequence[float]]] = ()
    lineage: Lineage | None = None
    offset: int = 0

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of every tensor."""
        return tuple(self.inputs[0].shape)

    @cached_property
    def size(self) -> int:
        """Elements of one tensor."""
        return math.prod(self.shape)

    @property
    def count(self) -> int:
        """M, the number of sources."""
        return len(self.inputs)

    @property
    def is_matrix(self) -> bool:
        """Whether it maps activations to activations: 2-D, neither embedding nor head."""
        return len(self.shape) == 2 and self.role not in ("embedding", "head")

    @property
    def tile_size(self) -> int:
        """Elements of a tile."""
        return TILE if self.device.type == "cpu" else _DEVICE_TILE

    def each(self, kernel: Kernel) -> Tiles:
        """A result whose elements depend on the same element of the inputs alone."""
        return Tiles(self, kernel)

    def each_row(self, kernel: Kernel) -> Tiles:
        """A result whose rows depend on the same row of the inputs alone (rule R11)."""
        return Tiles(self, kernel, by_row=True)

    def changed(self, kernel: Kernel, *, by_row: bool = False) -> Stack:
        """The same stack with its values passed through a kernel that keeps their shape."""
        return replace(
            self,
            changes=(*self.changes, kernel),
            by_row=self.by_row or by_row,
            known={},
            model_known={},
            model=None,
        )

    def as_task_vectors(self) -> Stack:
        """The same stack with the base subtracted from every source."""
        return replace(self, deltas=True)

    def tiles(self, *, by_row: bool = False) -> Iterator[Tile]:
        """All elements in order; a tile is good until the next one is read in this thread."""
        for start, stop in self.cuts_at(by_row=by_row):
            yield self.tile(start, stop, by_row=by_row)

    def cuts_at(self, *, by_row: bool = False) -> Iterator[tuple[int, int]]:
        """Where tiles start and stop, always the same."""
        step = self.tile_size
        if by_row or self.by_row:
            step = self.row_length * max(1, step // max(1, self.row_length))
        for start in range(0, self.size, max(1, step)):
            yield start, min(start + step, self.size)

    @property
    def row_length(self) -> int:
        """Elements of a row: a vector is one row, a tensor has ``shape[0]`` (rule R11)."""
        return self.size if len(self.shape) < 2 else self.size // max(1, self.shape[0])

    def tile(self, start: int, stop: int, *, by_row: bool = False) -> Tile:
        """The elements [start, stop) of every tensor.

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
        """Short tiles from everywhere, of a stack that has at least as many elements."""
        for number in range(BLOCKS):
            start = (self.size - BLOCK) * number // (BLOCKS - 1)
            yield self.tile(start, start + BLOCK)

    def whole(self) -> Tensor:
        """(M, *shape) float32, all at once: for operators that cannot be cut."""
        found = torch.empty((self.count, self.size), device=self.device)
        for tile in self.tiles():
            values = tile.values.flatten(1)
            found[:, tile.start : tile.start + values.shape[1]] = values
        return found.view(self.count, *self.shape)

    def whole_base(self) -> Tensor:
        """(*shape) float32.

        Raises:
            OperatorError: there is none.
        """
        if self.base is None:
            raise OperatorError(f"{self.name}: a base is needed")
        flat = stretch(self.base, 0, self.size).float()
        return flat.to(self.device).view(self.shape)

    def draw(self, start: int, stop: int, time: int = 0) -> Tensor:
        """(M, stop - start) float32 in [0, 1) that depend on seed, name, source and time alone.

        The next call in this thread may overwrite them.

        Args:
            time: 0 for the first use of these elements; a modifier may come before the operator.
        """
        if self.given_uniforms is not None:
            return self.given_uniforms.view(self.count, -1)[:, start:stop].float().clone()
        drawn = buffer("uniforms", (self.count, stop - start), torch.device("cpu"))
        again = f"\0{time}" if time else ""
        for row, label in zip(drawn, self.labels, strict=True):
            uniforms(f"{self.seed}\0{self.name}\0{label}{again}", start, stop, row)
        return drawn

    def once(self, key: Any, measure: Callable[[], Any]) -> Any:
        """What ``measure`` gives, computed the first time only."""
        full = (key, self.deltas, self.identity)
        if full not in self.known:
            self.known[full] = measure()
        return self.known[full]


def stretch(tensor: Input, start: int, stop: int) -> Tensor:
    """The flat elements [start, stop) of a tensor, in its own dtype."""
    if isinstance(tensor, Tensor):
        return tensor.reshape(-1)[start:stop]
    return tensor.slice(start, stop)
