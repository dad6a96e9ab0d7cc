"""The stack of output blocks: the slices that it is made of, and the scales between them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import accumulate, count
from operator import mul

from evomerge.plugins.registry import did_you_mean

Slice = dict[str, tuple[int, int]]

BASE = "base"  # what slices and tokenizers call a recipe's base
LEAST, MOST = 1e-4, 1e4  # magnitude of one scale
SCALE_SPAN = 1e30  # of the products: weights are divided by them in float32


def other_base(names: Collection[str]) -> str:
    """What a recipe with these models calls the search's base where another model leads."""
    return next(name for n in count() if (name := "base_model" + n * "_") not in names)


def slice_lengths(slices: Sequence[Slice]) -> list[int]:
    """The number of output blocks that each slice gives."""
    ranges = [next(iter(slice_.values()), (0, 0)) for slice_ in slices]
    return [end - start for start, end in ranges]


def canonical_slices(slices: Sequence[Slice], sources: Collection[str]) -> tuple[Slice, ...]:
    """Slices in their hashed form: in each, the base first and then the sources in their order."""
    names = [*([] if BASE in sources else [BASE]), *sources]
    return tuple({name: slice_[name] for name in names if name in slice_} for slice_ in slices)


def slice_problems(
    slices: Sequence[Slice], sources: Mapping[str, object], base: object
) -> Iterator[str]:
    """What is wrong with slices: unknown names, empty ranges, ranges of different lengths."""
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


def scale_problems(scales: Sequence[float], depth: int | None) -> Iterator[str]:
    """What is wrong with scales: too large or small for weights, or not one for each block.

    Args:
        depth: output blocks, None where no slices say it.
    """
    if scales and depth is not None and len(scales) != depth:
        yield (
            f"scales: {len(scales)} values, but the slices have {depth} blocks. "
            "Give one value a block."
        )
    wrong = [n for n, s in enumerate(scales) if not LEAST <= abs(s) <= MOST]
    for number in wrong:
        yield (
            f"scales.{number}: expected a magnitude in [{LEAST:g}, {MOST:g}], "
            f"got {scales[number]:g}. Choose one nearer to 1."
        )
    if wrong:
        return
    for number, product in enumerate(accumulate(scales, mul)):
        if not 1 / SCALE_SPAN <= abs(product) <= SCALE_SPAN:
            magnitude = math.log10(abs(product))
            yield (
                f"scales.{number}: the scales up to here multiply to 1e{magnitude:+.0f}, which "
                "float32 weights cannot make up for. Choose scales nearer to 1."
            )
            return
