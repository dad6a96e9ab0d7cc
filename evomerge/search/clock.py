"""Search time, and the GPU time that goes with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple


class Reading(NamedTuple):
    """What the clock shows."""

    seconds: float
    gpu_hours: float

    def since(self, earlier: Reading) -> Reading:
        """What has passed between two readings."""
        return Reading(self.seconds - earlier.seconds, self.gpu_hours - earlier.gpu_hours)


class Clock:
    """Search time, summed over all sessions; it does not run before `start`.

    Args:
        spent_seconds: search time of earlier sessions.
        planned_gpus: how many GPUs these count with, for want of a record: those of all workers.
        gpus: gives the number of GPUs that are held now.
    """

    def __init__(
        self, spent_seconds: float, planned_gpus: float, gpus: Callable[[], float]
    ) -> None:
        self._spent, self._planned, self._gpus = spent_seconds, planned_gpus, gpus
        self._started: float | None = None
        self._gpu_seconds = spent_seconds * planned_gpus
        self._counted = spent_seconds  # search time up to which GPUs were counted

    def start(self) -> None:
        """Begin this session's search time."""
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Search time so far."""
        if self._started is None:
            return self._spent
        return self._spent + time.monotonic() - self._started

    def read(self) -> Reading:
        """The time now; the GPUs held now are taken as held since the last reading."""
        seconds = self.seconds
        self._gpu_seconds += (seconds - self._counted) * self._gpus()
        self._counted = seconds
        return Reading(seconds, self._gpu_seconds / 3600)

    def earlier(self, seconds: float) -> Reading:
        """What the clock showed in an earlier session, after ``seconds`` of search time."""
        return Reading(seconds, seconds * self._planned / 3600)
