"""Lineages: models that are made of others by steps, for which no single weighted sum stands."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from itertools import pairwise

from pydantic import BaseModel, ConfigDict, Field


class LineageStep(BaseModel):
    """A child of one model or two: weighted sums of them, and normal noise on every element.

    Attributes:
        number: names the child, and its noise.
        parents: (M,) names of sources, or numbers of earlier steps; one or two.
        ends: (S,) the elements at which stretches end, ascending; the first begins at 0.
        weights: (S, M) those of the parents on every stretch.
        sigma: standard deviation of the noise; 0 for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=0)
    parents: tuple[str | int, ...] = Field(min_length=1, max_length=2)
    ends: tuple[int, ...] = Field(min_length=1)
    weights: tuple[tuple[float, ...], ...]
    sigma: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class Lineage(BaseModel):
    """The steps from the sources to a model, which is the last one's child.

    Attributes:
        chromosomes: (C,) the tensors by group, in the order in which they are laid end to end:
            words as in `evomerge.recipes.layout`.
        steps: parents before children.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    chromosomes: tuple[tuple[str, ...], ...] = (("rest",),)
    steps: tuple[LineageStep, ...] = Field(min_length=1)

    @property
    def size(self) -> int:
        """Elements of the model."""
        return self.steps[-1].ends[-1]


def lineage_problems(lineage: Lineage | None, sources: Collection[str]) -> Iterator[str]:
    """Steps out of order, parents that are none, and stretches that do not fit."""
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
                yield f"{at}.parents: {parent!r} is neither a source nor an earlier step"
        if step.ends[0] <= 0 or any(low >= high for low, high in pairwise(step.ends)):
            yield f"{at}.ends: expected elements that ascend from more than 0"
        if step.ends[-1] != lineage.size:
            yield f"{at}.ends: the last is {step.ends[-1]}, that of the last step {lineage.size}"
        if [len(row) for row in step.weights] != [len(step.parents)] * len(step.ends):
            yield (
                f"{at}.weights: expected {len(step.ends)} rows, one for each stretch, of "
                f"{len(step.parents)} weights, one for each parent"
            )
        if not all(math.isfinite(weight) for row in step.weights for weight in row):
            yield f"{at}.weights: expected finite numbers"
        known.add(step.number)
        last = step.number
