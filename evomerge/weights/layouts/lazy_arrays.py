"""Arrays made of a model's tensors, read only where they are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from evomerge.kernels.stack import Input
from evomerge.weights.architecture.arrays import Array, Cut, Joined, Leaf, Reshaped, Shape, Swapped

Range = tuple[int, int]


@dataclass(frozen=True)
class LazyArray:
    """An array whose elements are read from a model's tensors tile by tile.

    Attributes:
        array: which elements they are.
        read: gives the tensors by name.
    """

    array: Array
    read: Callable[[str], Input]
    _opened: dict[str, Input] = field(default_factory=dict)

    @property
    def shape(self) -> Sequence[int]:
        """The whole tensor's shape."""
        return self.array.shape

    def slice(self, start: int, stop: int) -> Tensor:
        """(stop - start,) the flat elements [start, stop)."""
        parts = [
            self._box(self.array, box).reshape(-1) for box in boxes(self.array.shape, start, stop)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def whole(self) -> Tensor:
        """All elements, contiguous."""
        return self._box(self.array, [(0, size) for size in self.array.shape]).contiguous()

    def _box(self, array: Array, box: Sequence[Range]) -> Tensor:
        """The elements within a range of every axis, of the ranges' lengths."""
        if isinstance(array, Leaf):
            return self._leaf(array, box)
        if isinstance(array, Joined):
            axis = array.axis
            parts = [
                self._box(part, [*box[:axis], (low, high), *box[axis + 1 :]])
                for part, _, low, high in array.overlapping(*box[axis])
            ]
            return parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis)
        if isinstance(array, Cut):
            inner = list(box)
            first, last = inner[array.axis]
            inner[array.axis] = (array.start + first, array.start + last)
            return self._box(array.of, inner)
        if isinstance(array, Swapped):
            a, b = array.axes
            inner = list(box)
            inner[a], inner[b] = inner[b], inner[a]
            return self._box(array.of, inner).transpose(a, b)
        return self._reshaped(array, box)

    def _leaf(self, leaf: Leaf, box: Sequence[Range]) -> Tensor:
        if leaf.name not in self._opened:
            self._opened[leaf.name] = self.read(leaf.name)
        tensor = self._opened[leaf.name]
        if not box:
            return tensor if isinstance(tensor, Tensor) else tensor.slice(0, 1).view(())
        first, last = box[0]
        if isinstance(tensor, Tensor):
            rows = tensor[first:last]
        else:
            width = math.prod(leaf.shape[1:])
            rows = tensor.slice(first * width, last * width).view(-1, *leaf.shape[1:])
        return rows[(slice(None), *(slice(*ends) for ends in box[1:]))]

    def _reshaped(self, array: Reshaped, box: Sequence[Range]) -> Tensor:
        """Read the stretches of the axes that are split or merged, and leave out what is around."""
        choices: list[list[list[Range]]] = []  # for each run of axes, boxes that make its stretch
        shape: list[int] = []
        kept: list[slice] = []
        for own, theirs, start in _groups(array.of.shape, array.shape):
            ranges = box[start : start + len(theirs)]
            width = math.prod(theirs[1:])
            low, high = _cover(theirs, ranges)
            first, last = low // width, -(-high // width)
            choices.append(list(boxes(own, first * width, last * width)))
            if theirs:
                shape += [last - first, *theirs[1:]]
                kept += [slice(ranges[0][0] - first, ranges[0][1] - first)]
                kept += [slice(*ends) for ends in ranges[1:]]

        def joined(axis: int, chosen: list[list[Range]]) -> Tensor:
            if axis < len(choices):
                parts = [joined(axis + 1, [*chosen, choice]) for choice in choices[axis]]
                return parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis)
            lengths = [math.prod(last - first for first, last in ranges) for ranges in chosen]
            return self._box(array.of, [ends for ranges in chosen for ends in ranges]).reshape(
                lengths
            )

        return joined(0, []).reshape(shape)[tuple(kept)]


def boxes(shape: Sequence[int], start: int, stop: int) -> Iterator[list[Range]]:
    """Ranges of every axis whose elements, one box after another, are the flat [start, stop)."""
    if not shape:
        if start < stop:
            yield []
        return
    width = math.prod(shape[1:])
    if width == 0 or start >= stop:
        return
    first, skipped = divmod(start, width)
    last, more = divmod(stop, width)
    if first == last:
        yield from ([(first, first + 1), *rest] for rest in boxes(shape[1:], skipped, more))
        return
    if skipped:
        yield from ([(first, first + 1), *rest] for rest in boxes(shape[1:], skipped, width))
        first += 1
    if first < last:
        yield [(first, last), *((0, size) for size in shape[1:])]
    if more:
        yield from ([(last, last + 1), *rest] for rest in boxes(shape[1:], 0, more))


def _groups(before: Shape, after: Shape) -> Iterator[tuple[Shape, Shape, int]]:
    """Runs of axes that a reshape turns into one another: before, after, the first one after."""
    i = j = 0
    while i < len(before) or j < len(after):
        i0, j0 = i, j
        own, theirs = 1, 1
        while i == i0 or j == j0 or own != theirs:
            if i < len(before) and (own <= theirs or j == len(after)):
                own *= before[i]
                i += 1
            elif j < len(after):
                theirs *= after[j]
                j += 1
            else:
                break
        yield before[i0:i], after[j0:j], j0


def _cover(shape: Shape, ranges: Sequence[Range]) -> Range:
    """The flat stretch from the first to the last element within the ranges."""
    low = high = 0
    for size, (first, last) in zip(shape, ranges, strict=True):
        low, high = low * size + first, high * size + last - 1
    return low, high + 1
