"""Segments: another weighted sum of the sources on every stretch of the model's elements."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from itertools import pairwise

from pydantic import BaseModel, ConfigDict


class Segments(BaseModel):
    """A piecewise constant matrix of coefficients.

    Attributes:
        chromosomes: (C,) the tensors by group, in the order in which they are laid end to end:
            words as in `evomerge.recipes.layout`.
        bounds: (S + 1,) elements at which segments begin and end, ascending from 0.
        rows: (S, K) the weight of every source, in the recipe's order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    chromosomes: tuple[tuple[str, ...], ...] = (("rest",),)
    bounds: tuple[int, ...]
    rows: tuple[tuple[float, ...], ...]

    @property
    def size(self) -> int:
        """Elements of the model."""
        return self.bounds[-1]


def segment_problems(segments: Segments | None, sources: Collection[str]) -> Iterator[str]:
    """Bounds that do not ascend, and rows that do not fit them or the sources."""
    if segments is None:
        return
    bounds, rows = segments.bounds, segments.rows
    if bounds[:1] != (0,) or any(low >= high for low, high in pairwise(bounds)):
        yield "segments.bounds: expected elements that ascend from 0"
    if len(rows) != len(bounds) - 1 or not rows:
        yield (
            f"segments.rows: {len(rows)} rows for {max(len(bounds) - 1, 0)} segments. "
            "Give one row for each."
        )
    for number, row in enumerate(rows):
        if len(row) != len(sources):
            yield f"segments.rows.{number}: {len(row)} weights for {len(sources)} sources"
        elif not all(map(math.isfinite, row)):
            yield f"segments.rows.{number}: expected finite numbers, got {list(row)}"
