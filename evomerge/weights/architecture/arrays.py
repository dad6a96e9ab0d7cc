"""Tensors that are made of others by joining, cutting, swapping axes and reshaping.

An `Array` says which element of which tensor each of its elements is; nothing is read to make one.
The functions `join`, `cut`, `swap` and `reshape` undo one another where they can, so that an array
which is another one after all is that one.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """A whole tensor."""

    name: str
    shape: Shape


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """Arrays side by side along an axis; ``starts`` says where each begins."""

    parts: tuple[Array, ...]
    axis: int
    starts: tuple[int, ...]
    shape: Shape

    def overlapping(self, first: int, last: int) -> Iterator[tuple[Array, int, int, int]]:
        """The parts in [first, last) of the axis: part, where it begins, its own range in it."""
        for number in range(bisect_right(self.starts, first) - 1, len(self.parts)):
            part, start = self.parts[number], self.starts[number]
            if start >= last:
                break
            low, high = max(first - start, 0), min(last - start, part.shape[self.axis])
            if low < high:
                yield part, start, low, high


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """The stretch of an array that begins at ``start`` of an axis and has ``shape``."""

    of: Array
    axis: int
    start: int
    shape: Shape


@dataclass(frozen=True, slots=True, eq=False)
class Swapped:
    """An array with two axes exchanged."""

    of: Array
    axes: tuple[int, int]
    shape: Shape


@dataclass(frozen=True, slots=True, eq=False)
class Reshaped:
    """The elements of an array in their order, in another shape."""

    of: Array
    shape: Shape


Array = Leaf | Joined | Cut | Swapped | Reshaped


def join(parts: Sequence[Array], axis: int) -> Array:
    """Arrays side by side along an axis.

    Raises:
        ValueError: they differ along another axis, or there are none.
    """
    rest = {(*part.shape[:axis], *part.shape[axis + 1 :]) for part in parts}
    if len(rest) != 1 or len({len(part.shape) for part in parts}) != 1:
        raise ValueError(f"cannot join {', '.join(str(part.shape) for part in parts)}")
    merged: list[Array] = []
    for part in parts:
        last = merged[-1] if merged else None
        if (
            isinstance(last, Cut)
            and isinstance(part, Cut)
            and (last.of, last.axis, axis) == (part.of, part.axis, part.axis)
            and last.start + last.shape[axis] == part.start
        ):
            merged[-1] = cut(last.of, axis, last.start, last.shape[axis] + part.shape[axis])
        else:
            merged.append(part)
    if len(merged) == 1:
        return merged[0]
    lengths = [part.shape[axis] for part in merged]
    starts = tuple(accumulate(lengths[:-1], initial=0))
    return Joined(tuple(merged), axis, starts, _with(merged[0].shape, axis, sum(lengths)))


def cut(of: Array, axis: int, start: int, length: int) -> Array:
    """The stretch [start, start + length) of an array along an axis."""
    if (start, length) == (0, of.shape[axis]):
        return of
    if isinstance(of, Cut) and of.axis == axis:
        return cut(of.of, axis, of.start + start, length)
    if isinstance(of, Joined) and of.axis == axis:
        within = of.overlapping(start, start + length)
        return join([cut(part, axis, low, high - low) for part, _, low, high in within], axis)
    if isinstance(of, Joined):
        return join([cut(part, axis, start, length) for part in of.parts], of.axis)
    if isinstance(of, Swapped):
        a, b = of.axes
        inner = {a: b, b: a}.get(axis, axis)
        return swap(cut(of.of, inner, start, length), a, b)
    return Cut(of, axis, start, _with(of.shape, axis, length))


def swap(of: Array, a: int, b: int) -> Array:
    """An array with two axes exchanged."""
    if a == b:
        return of
    if isinstance(of, Swapped) and {a, b} == set(of.axes):
        return of.of
    if isinstance(of, Joined):
        axis = {a: b, b: a}.get(of.axis, of.axis)
        return join([swap(part, a, b) for part in of.parts], axis)
    shape = list(of.shape)
    shape[a], shape[b] = shape[b], shape[a]
    return Swapped(of, (min(a, b), max(a, b)), tuple(shape))


def reshape(of: Array, shape: Shape) -> Array:
    """The elements of an array in another shape.

    Raises:
        ValueError: of another number of elements.
    """
    if math.prod(shape) != math.prod(of.shape):
        raise ValueError(f"cannot reshape {of.shape} into {shape}")
    if shape == of.shape:
        return of
    if isinstance(of, Reshaped):
        return reshape(of.of, shape)
    return Reshaped(of, shape)


def leaves(array: Array) -> Iterator[Leaf]:
    """The tensors that an array is made of, in order; one may come several times."""
    if isinstance(array, Leaf):
        yield array
    elif isinstance(array, Joined):
        for part in array.parts:
            yield from leaves(part)
    else:
        yield from leaves(array.of)


def tensors_of(array: Array) -> list[str]:
    """The names of the tensors that an array is made of, each once."""
    return list(dict.fromkeys(leaf.name for leaf in leaves(array)))


def substitute(array: Array, known: Mapping[str, Array]) -> Array:
    """The array with its tensors replaced by others, whole ones or again made of some.

    Raises:
        ValueError: an array of another shape for a tensor of which only a part is used.
    """
    if isinstance(array, Leaf):
        return known[array.name]
    if isinstance(array, Joined):
        return join([substitute(part, known) for part in array.parts], array.axis)
    of = substitute(array.of, known)
    if of.shape != array.of.shape:
        names = ", ".join(leaf.name for leaf in leaves(array.of))
        raise ValueError(f"{names} is {of.shape}, expected {array.of.shape}")
    if isinstance(array, Cut):
        return cut(of, array.axis, array.start, array.shape[array.axis])
    if isinstance(array, Swapped):
        return swap(of, *array.axes)
    return reshape(of, array.shape)


def invert(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Each tensor that the arrays are made of, made of the arrays in turn.

    Args:
        arrays: by name; those names are the ones of the results' tensors.

    Returns:
        By name, every tensor all elements of which the arrays have.
    """
    found: dict[str, Array] = {}
    pieces: dict[int, dict[int, Array]] = {}
    work: list[tuple[Array, Array]] = [
        (array, Leaf(name, array.shape)) for name, array in arrays.items()
    ]
    while work:
        array, value = work.pop()
        if isinstance(array, Leaf):
            found.setdefault(array.name, value)
        elif isinstance(array, Joined):
            for part, start in zip(array.parts, array.starts, strict=True):
                work.append((part, cut(value, array.axis, start, part.shape[array.axis])))
        elif isinstance(array, Swapped):
            work.append((array.of, swap(value, *array.axes)))
        elif isinstance(array, Reshaped):
            work.append((array.of, reshape(value, array.of.shape)))
        else:
            known = pieces.setdefault(id(array.of), {})
            known.setdefault(array.start, value)
            stretches = [known[start] for start in sorted(known)]
            lengths = [stretch.shape[array.axis] for stretch in stretches]
            ends = list(accumulate(lengths))
            if sorted(known) == [0, *ends[:-1]] and ends[-1] == array.of.shape[array.axis]:
                work.append((array.of, join(stretches, array.axis)))
    return found


def _with(shape: Shape, axis: int, length: int) -> Shape:
    return (*shape[:axis], length, *shape[axis + 1 :])
