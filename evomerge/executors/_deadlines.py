"""How long a candidate may take, and how often a worker may fail to start."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from typing import get_args

from evomerge.errors import EvomergeError
from evomerge.types import Evaluation, Job, Split, count

_ENOUGH = 8  # observed times, before they count
_QUANTILE = 0.95
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 1.0, 300.0


class Deadlines:
    """How many seconds a worker may spend on a job before it counts as hung.

    A job takes some time for the merge, and the more the more examples it asks. Each split has
    times of its own: its examples may be longer.

    Args:
        first_seconds: holds for a split until eight jobs have been timed on it.
        minimum_seconds: never less than this.
        factor: of the 0.95 quantiles of the times seen on that split.
    """

    def __init__(self, first_seconds: float, minimum_seconds: float, factor: float) -> None:
        self._first, self._minimum, self._factor = first_seconds, minimum_seconds, factor
        self._merges: dict[Split, list[float]] = {split: [] for split in get_args(Split)}
        self._examples: dict[Split, list[float]] = {split: [] for split in get_args(Split)}
        self._most = dict.fromkeys(get_args(Split), 1)  # examples that a job asked

    def observe(self, job: Job, evaluation: Evaluation, seconds: float) -> None:
        """Note how long a job took. One that failed may have ended early, and does not count."""
        if evaluation.status == "done":
            asked = max(1, evaluation.examples)
            self._most[job.split] = max(self._most[job.split], asked)
            insort(self._merges[job.split], evaluation.merge_seconds)
            insort(self._examples[job.split], (seconds - evaluation.merge_seconds) / asked)

    def seconds(self, job: Job) -> float:
        """How long a job may take, from the moment its worker got it."""
        if len(self._merges[job.split]) < _ENOUGH:
            return self._first
        asked = self._most[job.split] if job.portion is None else count(job.portion)
        usual = _quantile(self._merges[job.split]) + asked * _quantile(self._examples[job.split])
        return max(self._minimum, self._factor * usual)


def _quantile(ascending: list[float]) -> float:
    return ascending[int(_QUANTILE * (len(ascending) - 1))]


@dataclass(slots=True)
class StartupRetries:
    """How often each worker of a pool has failed to start since it was last open.

    A worker that waits for room in the cluster has not failed. It does not keep the run alive
    either: where it has waited long and all others fail, nobody will evaluate anything.

    Attributes:
        workers: how many there are, numbered from 0.
        fatal: failures in a row after which a worker is not expected to start any more.
    """

    workers: int
    fatal: int
    _failures: dict[int, int] = field(default_factory=dict)
    _waiting: set[int] = field(default_factory=set)
    _last: EvomergeError | None = None

    def failed(self, number: int, error: EvomergeError) -> float:
        """Note that a worker could not be started; returns seconds until the next attempt."""
        failures = self._failures.get(number, 0) + 1
        self._failures[number] = failures
        self._waiting.discard(number)
        self._last = error
        doublings = min(failures - 1, 30)  # of more, the power is a needlessly large number
        return min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2.0**doublings)

    def waits(self, number: int) -> None:
        """Note that a worker has waited long for room in the cluster."""
        self._waiting.add(number)

    def has_room(self, number: int) -> None:
        """Note that a worker found room, and is about to open its engine."""
        self._waiting.discard(number)

    def opened(self, number: int) -> None:
        """Note that a worker is open: its earlier failures no longer count."""
        self._waiting.discard(number)
        self._failures.pop(number, None)

    @property
    def fatal_error(self) -> EvomergeError | None:
        """What ends the run: the last failure, once no worker can be expected to start."""
        beyond = {number for number, count in self._failures.items() if count >= self.fatal}
        return self._last if beyond and len(beyond | self._waiting) == self.workers else None
