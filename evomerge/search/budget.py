"""When a search ends, and the clock that says so."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from pydantic import Field, model_validator

from evomerge.errors import ConfigError, Problem
from evomerge.keys import Count, Keys, Seconds


class Asked(NamedTuple):
    """How much was asked: candidates, search examples of them, and tokens in their answers."""

    evaluations: int = 0
    examples: int = 0
    tokens: int = 0


class Budget(Keys):
    """When a search, or a stage of one, ends: at the first of these limits.

    Attributes:
        evaluations: candidates asked of the optimizer; baselines come on top.
        examples: of the search, asked of candidates; those of baselines come on top.
        tokens: generated in answers to them.
        seconds: of search time, summed over all sessions; baselines count for the first stage.
        gpu_hours: search time in hours times the GPUs that open or opening workers hold; of earlier
            sessions, as if all workers had been open.
    """

    evaluations: Count | None = None
    examples: Count | None = None
    tokens: Count | None = None
    seconds: Seconds | None = None
    gpu_hours: float | None = Field(default=None, gt=0, le=1e9)

    @model_validator(mode="after")
    def _limited(self) -> Budget:
        if not any(limit is not None for limit in self.model_dump().values()):
            raise ValueError("give evaluations, examples, tokens, seconds or gpu_hours, or several")
        return self

    def require_gpus(self, gpus: float) -> None:
        """Raise for GPU hours where the workers, all together, hold no GPU.

        Raises:
            ConfigError: says what to set.
        """
        if self.gpu_hours is not None and not gpus:
            text = f"{self.gpu_hours:g}, but the workers hold no GPU."
            cure = (
                "Give them some, on Ray with executor.gpus_per_worker, or limit seconds or "
                "evaluations instead."
            )
            raise ConfigError(Problem(("budget", "gpu_hours"), text, cure))

    def affords(self, asked: Asked, more: Asked) -> bool:
        """Whether more can be asked within the limits that do not depend on time."""
        return (
            (self.evaluations is None or asked.evaluations + more.evaluations <= self.evaluations)
            and (self.examples is None or asked.examples + more.examples <= self.examples)
            and (self.tokens is None or asked.tokens < self.tokens)
        )

    def has_time(self, now: Reading) -> bool:
        """Whether no limit of time is reached."""
        return (self.seconds is None or now.seconds < self.seconds) and (
            self.gpu_hours is None or now.gpu_hours < self.gpu_hours
        )


class Reading(NamedTuple):
    """What the clock shows."""

    seconds: float
    gpu_hours: float

    def since(self, earlier: Reading) -> Reading:
        """The search time and GPU time between an earlier reading and this one."""
        return Reading(self.seconds - earlier.seconds, self.gpu_hours - earlier.gpu_hours)


class Clock:
    """Search time, summed over all sessions; it does not run before `start`.

    Args:
        spent_seconds: search time of earlier sessions.
        planned_gpus: how many GPUs those sessions are assumed to have held: those of all workers.
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
        """The reading now; the GPUs held now are counted for all the time since the last one."""
        seconds = self.seconds
        self._gpu_seconds += (seconds - self._counted) * self._gpus()
        self._counted = seconds
        return Reading(seconds, self._gpu_seconds / 3600)

    def earlier(self, seconds: float) -> Reading:
        """What the clock showed in an earlier session, after ``seconds`` of search time."""
        return Reading(seconds, seconds * self._planned / 3600)
