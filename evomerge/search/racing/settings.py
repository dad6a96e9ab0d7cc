"""The key ``racing`` of a search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import Field

from evomerge.keys import Keys


class Racing(Keys):
    """How many examples the candidates of a cohort are asked.

    Attributes:
        first: examples of all tasks together that every candidate is asked.
        rungs: how often those that are left are asked as many examples again as they were before.
        keep: the share of the candidates that goes on to the next rung.
    """

    first: Annotated[int, Field(ge=1, le=1_000_000)] = 40
    rungs: Annotated[int, Field(ge=1, le=16)] = 3
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5

    @property
    def blocks(self) -> int:
        """How many times ``first`` a candidate is asked that reaches the last rung."""
        return 1 << (self.rungs - 1)

    def with_rungs(self, rungs: int) -> Racing:
        """The same with so many rungs."""
        return self.model_copy(update={"rungs": rungs})

    def of_cohort(self, size: int, rungs: Sequence[int], *, ties: bool = False) -> int:
        """How many examples a cohort is asked if none of its candidates fail or repeat others.

        Args:
            size: how many candidates it has.
            rungs: how many examples each rung has, from `rung_sizes`.
            ties: whether as many tie across every cut as are let through, rather than none.
        """
        active, total = size, size * rungs[0]
        for below, rung in pairwise(rungs):
            active = max(2, math.ceil(active * self.keep)) + (most_tied(size) if ties else 0)
            total += min(active, size) * (rung - below)
        return total


def most_tied(size: int) -> int:
    """How many of a cohort go on to the next rung at most because they tie with the last one."""
    return size // 8
