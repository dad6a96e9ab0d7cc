"""One worker in this process."""

from __future__ import annotations

from collections import deque

from evomerge.executors import Executor
from evomerge.nouns import Evaluation, Job
from evomerge.worker import Worker, WorkerSetup


class LocalExecutor(Executor):
    """Evaluates one candidate after the other, in order."""

    def __init__(self) -> None:
        self._queue: deque[Job] = deque()
        self._worker: Worker | None = None

    def start(self, setup: WorkerSetup) -> None:
        """See `Executor.start`."""
        self._worker = Worker(setup)

    def submit(self, job: Job) -> None:
        """See `Executor.submit`."""
        self._queue.append(job)

    def result(self) -> tuple[Job, Evaluation]:
        """See `Executor.result`."""
        if self._worker is None:
            raise RuntimeError("the executor is not started")
        job = self._queue.popleft()
        return job, self._worker.evaluate(job)

    def close(self) -> None:
        """See `Executor.close`."""
        if self._worker is not None:
            self._worker.close()
        self._worker = None
        self._queue.clear()
