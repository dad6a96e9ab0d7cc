"""One worker in this process."""

from __future__ import annotations

import socket
from collections import deque
from dataclasses import replace
from typing import Annotated

from pydantic import Field

from evomerge.executors import Executor
from evomerge.nouns import Evaluation, Job
from evomerge.worker import Worker, WorkerSetup, planned_gpus


class LocalExecutor(Executor):
    """Evaluates one candidate after the other, in order.

    Args:
        lookahead: how many candidates are asked for before the first of them is told. With that
            of a run on many workers, and ``tell_order: asked`` there, both find the same.
    """

    def __init__(self, *, lookahead: Annotated[int, Field(ge=1)] = 1) -> None:
        self.lookahead = lookahead
        self._queue: deque[Job] = deque()
        self._worker: Worker | None = None
        self._gpus = 0.0

    @property
    def gpus(self) -> float:
        """See `Executor.gpus`."""
        return self._gpus

    def planned_gpus(self, setup: WorkerSetup) -> float:
        """See `Executor.planned_gpus`."""
        return planned_gpus(setup)

    def start(self, setup: WorkerSetup) -> None:
        """See `Executor.start`."""
        self._worker = Worker(setup)
        self._gpus = planned_gpus(setup)

    def submit(self, job: Job) -> None:
        """See `Executor.submit`."""
        self._queue.append(job)

    def result(self) -> tuple[Job, Evaluation]:
        """See `Executor.result`."""
        if self._worker is None:
            raise RuntimeError("the executor is not started")
        job = self._queue.popleft()
        evaluation = self._worker.evaluate(job)
        if self._worker.exhausted:  # a new engine: who knows what the old one still holds
            setup = self._worker.setup
            self._worker.close()
            self._worker = Worker(setup)
        return job, replace(evaluation, worker=f"0 on {socket.gethostname()}")

    def close(self) -> None:
        """See `Executor.close`."""
        if self._worker is not None:
            self._worker.close()
        self._worker = None
        self._queue.clear()
