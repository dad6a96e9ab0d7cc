"""Workers on a Ray cluster: one process per engine, replaced when it dies, hangs or is full."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from typing import Annotated, Any

from pydantic import Field

from evomerge.engines import Engine
from evomerge.errors import ConfigError, EvomergeError, InputError, SearchError
from evomerge.executors import Executor, TellOrder
from evomerge.executors._deadline import Deadlines
from evomerge.executors._inspection import inspect_machine
from evomerge.executors._openings import StartupRetries
from evomerge.executors._ray_cluster import Cluster, Demand, broken_connections
from evomerge.executors._ray_crew import Agency, Member, dismiss, has_answered, has_left
from evomerge.executors._remote import Answer, Arrived, Opened, Refusal
from evomerge.types import Evaluation, Job, Split
from evomerge.worker import WorkerSetup

log = logging.getLogger(__name__)

FATAL = 3  # workers that a candidate, or a place, may take down before it is the one to blame
_POLL_SECONDS = 1.0
_FAREWELL_SECONDS = 10.0

Positive = Annotated[float, Field(gt=0)]
_Key = tuple[int, Split]


class RayExecutor(Executor):
    """Keeps a crew of workers at work on a Ray cluster.

    Each worker is an actor with an engine of its own, opened once. One that dies, hangs or runs out
    of memory is replaced and its candidate evaluated elsewhere; a candidate that takes three
    workers down has failed. A candidate whose evaluation says that memory ran out fails at once.
    A node that leaves is nobody's fault: its candidates start again without a mark. A worker that
    cannot be opened is tried again, after longer and longer; the run ends when no place can be
    filled.

    Args:
        address: ``auto``: the cluster of this machine or of the submitted job; ``local``: one for
            this run alone, on this machine; else ``ray://host:port`` or ``host:port``.
        workers: how many engines; as many as fit work, the others join when there is room.
        gpus_per_worker: for one engine; below 1, several share a device.
        cpus_per_worker: likewise; Ray sets ``OMP_NUM_THREADS`` to it.
        nodes_per_worker: over how many nodes the GPUs of one engine may spread. Only with the
            engine ``vllm``, which starts a process per GPU; not tested with it.
        tell_order: see `Executor`.
        lookahead: with ``tell_order: asked``; by default twice the workers.
        runtime_env: Ray's runtime environment of the workers, passed on as it is.
        first_deadline_seconds: a candidate may take, while few have been timed on that split.
        deadline_minimum_seconds: it may always take.
        deadline_factor: times the 0.95 quantile of the times seen on that split, it may take later.
        start_timeout_seconds: a worker may take to open its engine, once it found room.

    Raises:
        ConfigError: Ray is not installed.
    """

    def __init__(
        self,
        *,
        address: str = "auto",
        workers: Annotated[int, Field(ge=1)] = 1,
        gpus_per_worker: Annotated[float, Field(ge=0)] = 0,
        cpus_per_worker: Positive = 1,
        nodes_per_worker: Annotated[int, Field(ge=1)] = 1,
        tell_order: TellOrder = "finished",
        lookahead: Annotated[int, Field(ge=1)] | None = None,
        runtime_env: dict[str, Any] | None = None,
        first_deadline_seconds: Positive = 3600,
        deadline_minimum_seconds: Positive = 60,
        deadline_factor: Annotated[float, Field(ge=1)] = 5,
        start_timeout_seconds: Positive = 1800,
    ) -> None:
        if find_spec("ray") is None:
            raise ConfigError(
                "executor: ray is not installed. Install it: pip install 'evomerge[ray]'"
            )
        if gpus_per_worker > 1 and gpus_per_worker != int(gpus_per_worker):
            raise ConfigError(
                f"executor.gpus_per_worker: expected a whole number above 1, got {gpus_per_worker}"
            )
        if nodes_per_worker > max(1, gpus_per_worker):
            raise ConfigError(
                f"executor.nodes_per_worker: {nodes_per_worker} nodes need as many GPUs, "
                f"got gpus_per_worker: {gpus_per_worker:g}. Raise it, or take one node."
            )
        self.capacity = workers
        self.workers_here = workers if address == "local" else 1
        self.tell_order = tell_order
        self.lookahead = lookahead or 2 * workers
        self._demand = Demand(gpus_per_worker, cpus_per_worker, nodes_per_worker)
        self._cluster = Cluster(address, runtime_env or {})
        self._deadlines = Deadlines(
            first_deadline_seconds, deadline_minimum_seconds, deadline_factor
        )
        self._start_timeout = start_timeout_seconds
        self._queue: deque[Job] = deque()
        self._faults: dict[_Key, list[str]] = {}  # what happened to the workers that had it
        self._crew: dict[int, Member] = {}  # by place
        self._vacant: dict[int, float] = {}  # places, and from which monotonic second to fill them
        self._openings = StartupRetries(workers, FATAL)

    @property
    def gpus(self) -> float:
        """See `Executor.gpus`: of the workers that have room, at work or opening."""
        return self._demand.gpus * sum(m.stage != "waits" for m in self._crew.values())

    def planned_gpus(self, setup: WorkerSetup) -> float:
        """See `Executor.planned_gpus`."""
        return self.capacity * self._demand.gpus

    def validate(self, engine: Engine) -> None:
        """See `Executor.validate`: too few GPUs, one process on several nodes, several at once."""
        problems = []
        if self._demand.nodes > 1 and not engine.spans_nodes:
            # the actor itself holds no GPU: its engine would take one that Ray gave to another
            problems.append(
                f"executor.nodes_per_worker: {self._demand.nodes}, but the engine computes in one "
                "process. Take one node, or engine: vllm."
            )
        if 0 < self._demand.gpus < engine.ranks:
            problems.append(
                f"executor.gpus_per_worker: {self._demand.gpus:g}, but the engine spreads a model "
                f"over {engine.ranks} GPUs. Give each worker {engine.ranks}."
            )
        if engine.at_once > 1:
            problems.append(
                "engine.at_once: workers on Ray evaluate one candidate at a time. "
                "Take at_once: 1 and more workers, or executor: local."
            )
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
        self._cluster.join(math.ceil(self.capacity * self._demand.cpus))
        self._agency = Agency(setup, expected, self._demand, self._cluster.environment)
        with self._cluster.reached():
            self._cluster.inspect(setup, expected, self._demand)
            self._crew = {number: self._agency.hire(number) for number in range(self.capacity)}
            while not any(member.stage == "open" for member in self._crew.values()):
                self._wait()

    def submit(self, job: Job) -> None:
        """See `Executor.submit`."""
        self._queue.append(job)
        with self._cluster.reached():
            self._assign()

    def result(self) -> tuple[Job, Evaluation]:
        """See `Executor.result`."""
        with self._cluster.reached():
            while True:
                self._assign()
                if (finished := self._wait()) is not None:
                    return finished

    def close(self) -> None:
        """See `Executor.close`."""
        import ray

        crew, self._crew = list(self._crew.values()), {}
        self._vacant.clear()
        self._queue.clear()
        self._faults.clear()
        try:
            with suppress(*broken_connections()):  # the cluster ends them, or has ended itself
                if ray.is_initialized():
                    idle = [m for m in crew if m.ref is None]
                    farewells = [member.actor.close.remote() for member in idle]
                    if farewells:
                        ray.wait(farewells, num_returns=len(farewells), timeout=_FAREWELL_SECONDS)
                    for member in crew:
                        dismiss(member)
        finally:
            self._cluster.leave()

    def _assign(self) -> None:
        for member in self._crew.values():
            if member.ref is None and self._queue:
                job = self._queue.popleft()
                member.begin(member.actor.evaluate.remote(job), job)

    def _wait(self) -> tuple[Job, Evaluation] | None:
        """What the next call that ends has brought; None when it brought no result."""
        import ray

        self._fill()
        # at every call: where others finish often, a moment in which none does may never come
        for member in self._crew.values():
            if self._overdue(member):
                return self._late(member)
        at_work = {m.ref: m for m in self._crew.values() if m.ref is not None}
        if not at_work:  # every place is vacant
            time.sleep(_POLL_SECONDS)
            return None
        ended, _ = ray.wait(list(at_work), num_returns=1, timeout=_POLL_SECONDS)
        return self._ended(at_work[ended[0]]) if ended else None

    def _fill(self) -> None:
        """Hire for the places that have been vacant long enough."""
        now = time.monotonic()
        for number in [number for number, due in self._vacant.items() if due <= now]:
            del self._vacant[number]
            self._crew[number] = self._agency.hire(number)

    def _overdue(self, member: Member) -> bool:
        """Whether a call has taken too long, and has not ended while this process was busy."""
        job = member.job
        limit = self._start_timeout if job is None else self._deadlines.seconds(job)
        late = member.ref is not None and time.monotonic() - member.since > limit
        return late and not has_answered(member)

    def _late(self, member: Member) -> tuple[Job, Evaluation] | None:
        """Lose a worker that is overdue, unless it only waits for room."""
        seconds = time.monotonic() - member.since
        if member.stage != "waits":
            return self._lost(member, f"no answer for {seconds:.0f} s")
        log.warning("worker %d has found no room for %.0f s", member.number, seconds)
        member.begin(member.ref)
        self._openings.waits(member.number)
        self._require_hope()
        return None

    def _ended(self, member: Member) -> tuple[Job, Evaluation] | None:
        """Take in what a worker answered, or that it died."""
        import ray

        try:
            answer = ray.get(member.ref)
        except ray.exceptions.RayTaskError as error:
            if member.stage == "open":
                raise SearchError(f"worker {member.number}: {error}") from None
            return self._lost(member, str(error).strip())  # another node may run it
        except ray.exceptions.RayError as error:
            return self._lost(member, f"{type(error).__name__}: {_first_line(error)}")
        if isinstance(answer, Refusal):
            if answer.final:
                raise answer.error()
            return self._lost(member, "\n".join(answer.problems), answer)
        if isinstance(answer, Arrived):
            member.stage, member.node, member.host = "opens", answer.node, answer.host
            self._openings.arrived(member.number)
            member.begin(member.actor.open.remote())
            return None
        job, member.job, member.ref = member.job, None, None
        if isinstance(answer, Opened):
            member.stage = "open"
            self._openings.opened(member.number)
            return None
        assert isinstance(answer, Answer)
        assert job is not None
        self._deadlines.observe(job, answer.evaluation, time.monotonic() - member.since)
        self._faults.pop((job.number, job.split), None)
        if answer.exhausted:
            self._replace(member)
        return job, replace(answer.evaluation, worker=f"{member.number} on {member.host}")

    def _lost(
        self, member: Member, reason: str, refusal: Refusal | None = None
    ) -> tuple[Job, Evaluation] | None:
        """Replace a worker; its job goes first in the queue, or has failed."""
        job, blameless = member.job, has_left(member)
        if job is None and not blameless:
            self._unopened(member, reason, refusal)
            return None
        if blameless:
            self._cluster.require_life()
        log.warning("worker %d is replaced: %s", member.number, reason)
        self._replace(member)
        if job is None:
            return None
        key = (job.number, job.split)
        faults = self._faults.setdefault(key, [])
        if not blameless:
            faults.append(reason)
        if len(faults) < FATAL:
            self._queue.appendleft(job)
            return None
        del self._faults[key]
        error = f"took {FATAL} workers down, at last: {reason}"
        return job, Evaluation("failed", error=error)

    def _unopened(self, member: Member, reason: str, refusal: Refusal | None) -> None:
        """Leave a place vacant for a while, because its worker could not be opened."""
        error: EvomergeError = SearchError(f"no worker can be opened: {reason}")
        if refusal is not None and refusal.of_node:
            error = refusal.error()
        seconds = self._openings.failed(member.number, error)
        log.warning(
            "worker %d cannot be opened, next attempt in %.0f s: %s",
            member.number,
            seconds,
            reason,
        )
        dismiss(member)
        del self._crew[member.number]
        self._vacant[member.number] = time.monotonic() + seconds
        self._require_hope()

    def _require_hope(self) -> None:
        """Raise once no place can be filled."""
        if (error := self._openings.verdict) is not None:
            raise error

    def _replace(self, member: Member) -> None:
        dismiss(member)
        self._crew[member.number] = self._agency.hire(member.number)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
