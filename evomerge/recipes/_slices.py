"""Slices: which blocks of which models make the blocks of the output."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from evomerge.plugins.registry import did_you_mean

Slice = dict[str, tuple[int, int]]

BASE = "base"


def length(slice_: Mapping[str, tuple[int, int]]) -> int:
    """How many blocks a slice gives."""
    start, end = next(iter(slice_.values()))
    return end - start


def canonical_slices(slices: Sequence[Slice], sources: Collection[str]) -> tuple[Slice, ...]:
    """The same slices, the base first and then the sources in their order."""
    names = [*([] if BASE in sources else [BASE]), *sources]
    return tuple({name: slice_[name] for name in names if name in slice_} for slice_ in slices)


def slice_problems(
    slices: Sequence[Slice], sources: Mapping[str, object], base: object
) -> Iterator[str]:
    """Unknown names, empty ranges and slices whose ranges differ in length."""
    if slices and sources.get(BASE, base) != base:
        yield "slices: a source is called 'base', but is another model. Rename it."
    for number, slice_ in enumerate(slices):
        at = f"slices.{number}"
        for name, (start, end) in slice_.items():
            if name not in (BASE, *sources):
                yield f"{at}.{name}: no such source.{did_you_mean(name, [BASE, *sources])}"
            if not 0 <= start < end:
                yield f"{at}.{name}: expected 0 <= start < end, got {[start, end]}"
        if not set(slice_) - {BASE} and (BASE not in sources or not slice_):
            yield f"{at}: expected the range of at least one source"
        elif len({end - start for start, end in slice_.values()}) > 1:
            shown = ", ".join(f"{name} {end - start}" for name, (start, end) in slice_.items())
            yield f"{at}: the ranges differ in length: {shown} blocks"
