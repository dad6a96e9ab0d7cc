"""How long a candidate may take before its worker is taken to hang."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from typing import get_args

from evomerge.types import Evaluation, Job, Split

_ENOUGH = 8  # observed times, before they count
_QUANTILE = 0.95


@dataclass(slots=True)
class Deadline:
    """A multiple of the times seen so far.

    Attributes:
        first_seconds: holds until eight candidates have been timed.
        minimum_seconds: never less than this.
        factor: of the 0.95 quantile of the times seen.
    """

    first_seconds: float
    minimum_seconds: float
    factor: float
    _seen: list[float] = field(default_factory=list)  # ascending

    def observe(self, seconds: float) -> None:
        """Note how long a candidate took."""
        insort(self._seen, seconds)

    @property
    def seconds(self) -> float:
        """When to give up on a candidate, from the moment its worker got it."""
        if len(self._seen) < _ENOUGH:
            return self.first_seconds
        quantile = self._seen[int(_QUANTILE * (len(self._seen) - 1))]
        return max(self.minimum_seconds, self.factor * quantile)


class Deadlines:
    """One deadline per split: held-out examples may be many more than those of the search.

    Args:
        first_seconds, minimum_seconds, factor: as in `Deadline`, for each of them.
    """

    def __init__(self, first_seconds: float, minimum_seconds: float, factor: float) -> None:
        self._of_split: dict[Split, Deadline] = {
            split: Deadline(first_seconds, minimum_seconds, factor) for split in get_args(Split)
        }

    def observe(self, job: Job, evaluation: Evaluation, seconds: float) -> None:
        """Note how long a job took; one that failed may have ended early, and tells nothing."""
        if evaluation.status == "done":
            self._of_split[job.split].observe(seconds)

    def seconds(self, job: Job) -> float:
        """When to give up on a job, from the moment its worker got it."""
        return self._of_split[job.split].seconds
