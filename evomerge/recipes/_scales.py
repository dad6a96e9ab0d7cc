"""Scales: what the residual stream is multiplied by on its way into each block."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate
from operator import mul

LEAST, MOST = 1e-4, 1e4
SCALE_SPAN = 1e30  # of the products: weights are divided by them in float32


def canonical_scales(scales: Sequence[float]) -> tuple[float, ...]:
    """The same scales; none where all are 1."""
    return () if all(scale == 1 for scale in scales) else tuple(scales)


def scale_problems(scales: Sequence[float], depth: int | None) -> Iterator[str]:
    """Scales that cannot be divided out again, or another number of them than of blocks.

    Args:
        depth: blocks of the output, where slices say it.
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
