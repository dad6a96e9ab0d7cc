"""Where candidates are evaluated, one kind of executor per file.

The file's name is the executor's public name; the keyword-only arguments of its constructor are
its YAML keys.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from evomerge.nouns import Evaluation, Job
from evomerge.worker import WorkerSetup


class Executor(ABC):
    """Runs jobs on workers that stay open for the whole run.

    Attributes:
        capacity: how many jobs it wants to hold at once.
    """

    capacity: int = 1

    @abstractmethod
    def start(self, setup: WorkerSetup) -> None:
        """Open the workers.

        Raises:
            InputError: models, engine or tasks that cannot be opened.
        """

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Take a job; returns at once or when it is done."""

    @abstractmethod
    def result(self) -> tuple[Job, Evaluation]:
        """The next finished job, waiting for it; never called with no job submitted."""

    @abstractmethod
    def close(self) -> None:
        """End all workers; unfinished jobs are dropped. May be called twice."""
