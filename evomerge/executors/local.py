"""One worker in this process."""

from __future__ import annotations

import socket
from collections import deque
from dataclasses import replace

from evomerge.errors import SourceChangedError
from evomerge.executors import Executor
from evomerge.keys import AtOnce
from evomerge.types import Evaluation, Job
from evomerge.weights.files.model_files import PUT_BACK
from evomerge.worker import Worker, WorkerSetup


class LocalExecutor(Executor):
    """Evaluates candidates in order: one at a time, or as many as the engine holds at once.

    Args:
        lookahead: how many candidates are asked for before the optimizer gets the result of the
            first of them; by default as many as the engine holds at once. With the lookahead of a
            run on many workers, and ``tell_order: asked`` there, both find the same.
    """

    def __init__(self, *, lookahead: AtOnce | None = None) -> None:
        self._own_lookahead = lookahead
        self.lookahead = lookahead or 1
        self._queue: deque[Job] = deque()
        self._done: deque[tuple[Job, Evaluation]] = deque()
        self._worker: Worker | None = None
        self._gpus = 0.0

    @property
    def gpus(self) -> float:
        """See `Executor.gpus`."""
        return self._gpus

    def start(self, setup: WorkerSetup) -> None:
        """See `Executor.start`."""
        self._worker = Worker(setup)
        self.lookahead = self._own_lookahead or self._worker.engine.at_once
        self._gpus = self._worker.engine.gpus()

    def submit(self, job: Job) -> None:
        """See `Executor.submit`."""
        self._queue.append(job)

    def result(self) -> tuple[Job, Evaluation]:
        """See `Executor.result`."""
        if self._worker is None:
            raise RuntimeError("the executor is not started")
        if not self._done:
            jobs = self._next(self._worker.engine.at_once)
            name = f"0 on {socket.gethostname()}"
            for job, evaluation in zip(jobs, self._worker.evaluate_all(jobs), strict=True):
                self._done.append((job, replace(evaluation, worker=name)))
        if self._worker.exhausted:  # the old engine may still hold memory
            self._reopen(self._worker)
        return self._done.popleft()

    def _reopen(self, before: Worker) -> None:
        """Replace the worker by one that has the same files and code.

        Raises:
            SourceChangedError: it would have others.
        """
        before.close()
        self._worker = Worker(before.setup)
        before.require_unchanged()
        if self._worker.code != before.code:
            raise SourceChangedError(
                "fitness or engine: their code, tasks or data changed while the run was going on. "
                f"{PUT_BACK}"
            )

    def _next(self, most: int) -> list[Job]:
        """The oldest job of the queue, with at most so many in all on the same examples."""
        first = self._queue[0]
        asked = first.split, first.portion
        jobs = [job for job in self._queue if (job.split, job.portion) == asked][:most]
        for job in jobs:
            self._queue.remove(job)
        return jobs

    def close(self) -> None:
        """See `Executor.close`."""
        if self._worker is not None:
            self._worker.close()
        self._worker = None
        self._queue.clear()
        self._done.clear()
