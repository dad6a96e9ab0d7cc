"""What the operator `segments` merges by: weights that change along the model's elements.

Either one matrix of weights (`Segments`), or the steps of a breeding with mutation (`Lineage`),
for which no single weighted sum stands. Both lay the tensors end to end as
`evomerge.recipes.layout` does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise

from pydantic import Field

from evomerge.errors import shown
from evomerge.keys import Keys


class Segments(Keys):
    """A weighted sum of the sources for every segment of the model's elements.

    Attributes:
        chromosomes: (C,) groups of tensors in the order in which they are laid end to end, each
            the words that select it.
        bounds: (S + 1,) elements at which segments begin and end, ascending from 0.
        rows: (S, K) weights of the sources, in the recipe's order.
    """

    chromosomes: tuple[tuple[str, ...], ...] = (("rest",),)
    bounds: tuple[int, ...]
    rows: tuple[tuple[float, ...], ...]

    @property
    def size(self) -> int:
        """How many elements the segments cover: all those of the model."""
        return self.bounds[-1]


class LineageStep(Keys):
    """A child of one model or two: a weighted sum for every segment, plus normal noise.

    Attributes:
        number: names the child, and seeds its noise.
        parents: (M,) names of sources, or numbers of earlier steps; one or two.
        ends: (S,) elements at which segments end, ascending; the first segment begins at 0.
        weights: (S, M) weights of the parents.
        sigma: standard deviation of the noise on every element; 0 for none.
    """

    number: int = Field(ge=0)
    parents: tuple[str | int, ...] = Field(min_length=1, max_length=2)
    ends: tuple[int, ...] = Field(min_length=1)
    weights: tuple[tuple[float, ...], ...]
    sigma: float = Field(default=0.0, ge=0)


class Lineage(Keys):
    """The steps from the sources to a model, which is the last step's child.

    Attributes:
        chromosomes: as of `Segments`.
        steps: parents before children.
    """

    chromosomes: tuple[tuple[str, ...], ...] = (("rest",),)
    steps: tuple[LineageStep, ...] = Field(min_length=1)

    @property
    def size(self) -> int:
        """How many elements each step covers: all those of the model."""
        return self.steps[-1].ends[-1]


def segment_problems(segments: Segments | None, sources: Collection[str]) -> Iterator[str]:
    """What is wrong with segments: their order, or rows that do not fit."""
    if segments is None:
        return
    bounds, rows = segments.bounds, segments.rows
    if bounds[:1] != (0,) or not _ascend(bounds):
        yield "segments.bounds: expected elements that ascend from 0"
    if len(rows) != len(bounds) - 1 or not rows:
        yield (
            f"segments.rows: {len(rows)} rows for {max(len(bounds) - 1, 0)} segments. "
            "Give one row for each."
        )
    for number, row in enumerate(rows):
        if len(row) != len(sources):
            yield f"segments.rows.{number}: {len(row)} weights for {len(sources)} sources"


def lineage_problems(lineage: Lineage | None, sources: Collection[str]) -> Iterator[str]:
    """What is wrong with a lineage: its order, unknown parents, segments that do not fit."""
    if lineage is None:
        return
    known: set[str | int] = set(sources)
    last = -1
    for place, step in enumerate(lineage.steps):
        at = f"lineage.steps.{place}"
        if step.number <= last:
            yield f"{at}.number: expected more than {last}, got {step.number}"
        for parent in step.parents:
            if parent not in known:
                yield f"{at}.parents: {shown(parent)} is neither a source nor an earlier step"
        if step.ends[0] <= 0 or not _ascend(step.ends):
            yield f"{at}.ends: expected elements that ascend from more than 0"
        if step.ends[-1] != lineage.size:
            yield f"{at}.ends: the last is {step.ends[-1]}, that of the last step {lineage.size}"
        if [len(row) for row in step.weights] != [len(step.parents)] * len(step.ends):
            yield (
                f"{at}.weights: expected {len(step.ends)} rows, one for each segment, of "
                f"{len(step.parents)} weights, one for each parent"
            )
        known.add(step.number)
        last = step.number


def _ascend(elements: Sequence[int]) -> bool:
    return all(low < high for low, high in pairwise(elements))
