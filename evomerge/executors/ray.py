"""Workers on a Ray cluster, replaced when they die, hang or run out of memory."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from typing import Annotated

from pydantic import Field

from evomerge.engines import Engine
from evomerge.errors import ConfigError, InputError, Problem, SearchError
from evomerge.executors import Executor, TellOrder
from evomerge.executors._deadlines import Deadlines
from evomerge.executors._inspection import inspect_machine
from evomerge.executors._ray_cluster import Cluster, WorkerResources, broken_connections
from evomerge.executors._ray_environment import with_values
from evomerge.executors._ray_pool import PoolWorker, WorkerPool
from evomerge.executors._remote import Answer, Refusal, RoomFound
from evomerge.keys import AtOnce, Plain, Seconds
from evomerge.types import Evaluation, Job, Split
from evomerge.worker import WorkerSetup

log = logging.getLogger(__name__)

FATAL = 3  # workers that a candidate may take down, and times that a worker may fail to start
_POLL_SECONDS = 1.0

Finished = tuple[Job, Evaluation]


class RayExecutor(Executor):
    """Evaluates candidates on a pool of workers on a Ray cluster.

    Each worker is an actor with an engine of its own, opened once. One that dies, hangs or runs out
    of memory is replaced and its candidate evaluated elsewhere; a candidate that takes three
    workers down has failed. A candidate whose evaluation says that memory ran out fails at once.
    One that ran into a full disk or a lost mount is evaluated elsewhere, and the third time the run
    ends. A node that leaves does not count against its candidates, which start again. A worker that
    cannot be opened is tried again after a wait that doubles each time; the run ends when no
    worker can be opened.

    Args:
        address: ``auto``: the cluster of this machine or of the submitted job; ``local``: one for
            this run alone, on this machine; else ``ray://host:port`` or ``host:port``.
        workers: how many engines; as many as fit work, the others join when there is room.
        gpus_per_worker: for one engine; below 1, several share a device.
        cpus_per_worker: for one engine; Ray sets ``OMP_NUM_THREADS`` to it.
        nodes_per_worker: over how many nodes the GPUs of one engine may spread. Only with the
            engine ``vllm``, which starts a process per GPU; not tested with it.
        tell_order: see `Executor`.
        lookahead: with ``tell_order: asked``; by default twice the workers.
        runtime_env: Ray's runtime environment of the workers, passed on as it is. Of ``env_vars``
            a run keeps the names only: a variable without a value has that of this process.
        first_deadline_seconds: what a candidate may take until eight have been timed on its split.
        deadline_minimum_seconds: what a candidate may take at least.
        deadline_factor: how many times the 0.95 quantile of the times seen on its split a candidate
            may take from then on.
        start_timeout_seconds: what a worker may take to open its engine, once it found room.

    Raises:
        ConfigError: Ray is not installed, or a variable of ``runtime_env`` has no value.
    """

    def __init__(
        self,
        *,
        address: str = "auto",
        workers: AtOnce = 1,
        gpus_per_worker: Annotated[float, Field(ge=0, le=10_000)] = 0,
        cpus_per_worker: Annotated[float, Field(gt=0, le=10_000)] = 1,
        nodes_per_worker: AtOnce = 1,
        tell_order: TellOrder = "finished",
        lookahead: AtOnce | None = None,
        runtime_env: Plain | None = None,
        first_deadline_seconds: Seconds = 3600,
        deadline_minimum_seconds: Seconds = 60,
        deadline_factor: Annotated[float, Field(ge=1, le=1e6)] = 5,
        start_timeout_seconds: Seconds = 1800,
    ) -> None:
        if find_spec("ray") is None:
            cure = "Install it: pip install 'evomerge[ray]'"
            raise ConfigError(Problem(("executor",), "ray is not installed.", cure))
        if gpus_per_worker > 1 and gpus_per_worker != int(gpus_per_worker):
            text = f"expected a whole number above 1, got {gpus_per_worker}"
            raise ConfigError(Problem(("executor", "gpus_per_worker"), text))
        if nodes_per_worker > max(1, gpus_per_worker):
            text = (
                f"{nodes_per_worker} nodes need as many GPUs, "
                f"got gpus_per_worker: {gpus_per_worker:g}."
            )
            cure = "Raise it, or take one node."
            raise ConfigError(Problem(("executor", "nodes_per_worker"), text, cure))
        self.capacity = workers
        self.workers_here = workers if address == "local" else 1
        self.gpus_per_worker = gpus_per_worker
        self.tell_order = tell_order
        self.lookahead = lookahead or 2 * workers
        self._resources = WorkerResources(gpus_per_worker, cpus_per_worker, nodes_per_worker)
        self._cluster = Cluster(address, with_values(runtime_env or {}))
        self._pool = WorkerPool(workers, self._resources, FATAL)
        self._deadlines = Deadlines(
            first_deadline_seconds, deadline_minimum_seconds, deadline_factor
        )
        self._start_timeout = start_timeout_seconds
        self._queue: deque[Job] = deque()
        # by candidate and split: what happened to the workers that evaluated it
        self._faults: dict[tuple[int, Split], list[str]] = {}

    @property
    def gpus(self) -> float:
        """See `Executor.gpus`: of the workers that have room, at work or opening."""
        return self._pool.gpus

    def validate(self, engine: Engine) -> None:
        """See `Executor.validate`: too few GPUs, one process on several nodes, several at once."""
        problems = []
        if self._resources.nodes > 1 and not engine.spans_nodes:
            # the actor itself holds no GPU: its engine would take one that Ray gave to another
            text = f"{self._resources.nodes}, but the engine computes in one process."
            cure = "Take one node, or engine: vllm."
            problems.append(Problem(("executor", "nodes_per_worker"), text, cure))
        if 0 < self._resources.gpus < engine.ranks:
            text = (
                f"{self._resources.gpus:g}, but the engine spreads a model over "
                f"{engine.ranks} GPUs."
            )
            cure = f"Give each worker {engine.ranks}."
            problems.append(Problem(("executor", "gpus_per_worker"), text, cure))
        if engine.at_once > 1:
            text = "workers on Ray evaluate one candidate at a time."
            cure = "Take at_once: 1 and more workers, or executor: local."
            problems.append(Problem(("engine", "at_once"), text, cure))
        if problems:
            raise ConfigError(problems)

    def start(self, setup: WorkerSetup) -> None:
        """See `Executor.start`. Returns when the first worker is open.

        Raises:
            InputError: no such cluster, no room in it, or nodes with other files or versions;
                all of these at once.
            SearchError: no worker can be opened, or the connection to the cluster is lost.
        """
        expected = inspect_machine(setup)
        if expected.problems:
            raise InputError(expected.problems)
        self._cluster.join(math.ceil(self.capacity * self._resources.cpus))
        with self._cluster.connected():
            self._cluster.inspect(setup, expected, self._resources)
            self._pool.start(setup, expected, self._cluster.environment)
            while not any(w.stage == "open" for w in self._pool.workers.values()):
                self._wait()

    def submit(self, job: Job) -> None:
        """See `Executor.submit`."""
        self._queue.append(job)
        with self._cluster.connected():
            self._assign()

    def result(self) -> Finished:
        """See `Executor.result`."""
        with self._cluster.connected():
            while True:
                self._assign()
                if (finished := self._wait()) is not None:
                    return finished

    def close(self) -> None:
        """See `Executor.close`."""
        self._queue.clear()
        self._faults.clear()
        try:
            with suppress(*broken_connections()):  # the cluster ends them, or has ended itself
                self._pool.stop()
        finally:
            self._cluster.leave()

    def _assign(self) -> None:
        """Give idle workers a job each: one of the recipe that they hold, or else the oldest."""
        idle = [worker for worker in self._pool.workers.values() if worker.ref is None]
        wanted = {job.recipe.digest for job in self._queue}
        # first, or another worker would take what one holds
        idle.sort(key=lambda worker: worker.holds not in wanted)
        for worker in idle[: len(self._queue)]:
            held = (job for job in self._queue if job.recipe.digest == worker.holds)
            job = next(held, self._queue[0])
            self._queue.remove(job)
            worker.begin(worker.actor.evaluate.remote(job), job)

    def _wait(self) -> Finished | None:
        """Wait for the next answer of a worker, or a second; the result, if the answer is one."""
        import ray

        self._pool.start_due()
        # at every call: where others finish often, a moment in which none does may never come
        for worker in self._pool.workers.values():
            if self._is_overdue(worker) and worker.stage == "waits":
                self._pool.still_waits(worker)
            elif self._is_overdue(worker):
                return self._lose(worker, f"no answer for {worker.seconds:.0f} s")
        busy = {w.ref: w for w in self._pool.workers.values() if w.ref is not None}
        if not busy:  # all failed to start, and wait for their next attempt
            time.sleep(_POLL_SECONDS)
            return None
        ended, _ = ray.wait(list(busy), num_returns=1, timeout=_POLL_SECONDS)
        return self._take_answer(busy[ended[0]]) if ended else None

    def _is_overdue(self, worker: PoolWorker) -> bool:
        """Whether a call has taken too long, and has not ended while this process was busy."""
        job = worker.job
        limit = self._start_timeout if job is None else self._deadlines.seconds(job)
        return worker.ref is not None and worker.seconds > limit and not worker.has_answered()

    def _take_answer(self, worker: PoolWorker) -> Finished | None:
        """Take in what a worker answered, or that it died; the result, if the answer is one."""
        import ray

        try:
            answer = ray.get(worker.ref)
        except ray.exceptions.RayTaskError as error:
            if worker.stage == "open":
                raise SearchError(f"worker {worker.number}: {error}") from None
            return self._lose(worker, str(error).strip())  # another node may run it
        except ray.exceptions.RayError as error:
            first_line = str(error).strip().partition("\n")[0]
            return self._lose(worker, f"{type(error).__name__}: {first_line}")
        if isinstance(answer, Refusal):
            if answer.final:
                raise answer.error()
            return self._lose(worker, "\n".join(answer.problems), answer)
        if isinstance(answer, Answer):
            return self._finish(worker, answer)
        if isinstance(answer, RoomFound):
            self._pool.has_room(worker, answer)
        else:
            self._pool.opened(worker)
        return None

    def _finish(self, worker: PoolWorker, answer: Answer) -> Finished:
        job = worker.job
        assert job is not None
        self._deadlines.observe(job, answer.evaluation, worker.seconds)
        self._faults.pop((job.number, job.split), None)
        worker.job = worker.ref = None
        if answer.exhausted:
            self._pool.replace(worker)
        return job, replace(answer.evaluation, worker=f"{worker.number} on {worker.host}")

    def _lose(
        self, worker: PoolWorker, reason: str, refusal: Refusal | None = None
    ) -> Finished | None:
        """Replace a worker. Its job goes to the head of the queue, or fails: then it is returned.

        Args:
            refusal: what the worker answered, if it did.

        Raises:
            MachineError: the job failed for the last time, and the machine is at fault.
        """
        job, node_left = worker.job, worker.has_lost_its_node()
        if job is None and not node_left:
            self._pool.retry_later(worker, reason, refusal)
            return None
        if node_left:
            self._cluster.require_node()
        log.warning("worker %d is replaced: %s", worker.number, reason)
        self._pool.replace(worker)
        if job is None:
            return None
        faults = self._faults.setdefault((job.number, job.split), [])
        if not node_left:  # which is not the candidate's fault
            faults.append(reason)
        if len(faults) < FATAL:
            self._queue.appendleft(job)
            return None
        del self._faults[job.number, job.split]
        if refusal is not None and refusal.of_machine:
            raise refusal.error()
        error = f"took {FATAL} workers down, at last: {reason}"
        return job, Evaluation("failed", error=error)
