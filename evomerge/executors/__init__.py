"""Where candidates are evaluated: in this process, or on a cluster. One executor per file.

The file's name is the executor's public name; the keyword-only arguments of its constructor are
its YAML keys.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from evomerge.engines import Engine
from evomerge.types import Evaluation, Job
from evomerge.worker import WorkerSetup

TellOrder = Literal["finished", "asked"]


class Executor(ABC):
    """Runs jobs on workers that stay open for the whole run.

    A machine that fails is the executor's business: it evaluates the job elsewhere.

    Attributes:
        capacity: how many jobs it works on at once; it takes more and queues them.
        tell_order: in which order the optimizer gets results: ``finished`` as they come, ``asked``
            by the candidates' numbers, so that a run does not depend on timing.
        lookahead: with ``asked``, how many candidates may be asked for before the optimizer gets
            the result of the first of them.
        workers_here: how many workers share the memory of this machine, as far as that is known.
        gpus_per_worker: how many GPUs each worker gets, on whatever machine; None: workers compute
            in this process, on the devices that they find here.
    """

    capacity: int = 1
    workers_here: int = 1
    gpus_per_worker: float | None = None
    tell_order: TellOrder = "asked"
    lookahead: int = 1

    @property
    def gpus(self) -> float:
        """How many GPUs the workers hold now; 0 on CPUs."""
        return 0.0

    def planned_gpus(self, setup: WorkerSetup) -> float:
        """How many GPUs all workers together will hold once they are open."""
        if self.gpus_per_worker is None:
            return setup.new_engine().gpus()
        return self.capacity * self.gpus_per_worker

    def validate(self, engine: Engine) -> None:  # noqa: B027 - most run all
        """Raise for an engine that the workers could not run; neither need be started.

        Raises:
            ConfigError: all reasons why they could not.
        """

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
        """Wait for the next finished job; not to be called while no job is submitted.

        Raises:
            InputError: a source or a task that can no longer be read.
            SearchError: no worker can be started any more.
        """

    @abstractmethod
    def close(self) -> None:
        """End all workers; unfinished jobs are dropped. May be called twice."""
