"""The worker pool of a run on Ray: one process per engine, started, replaced and stopped."""

from __future__ import annotations

import logging
import socket
import time
from dataclasses import dataclass
from typing import Any, Literal

from evomerge.errors import EvomergeError, SearchError
from evomerge.executors._deadlines import StartupRetries
from evomerge.executors._inspection import Inspection
from evomerge.executors._ray_cluster import WorkerResources
from evomerge.executors._remote import Refusal, RemoteWorker, RoomFound
from evomerge.types import Job
from evomerge.worker import WorkerSetup

log = logging.getLogger(__name__)

_CLOSE_SECONDS = 10.0


class EvomergeWorker(RemoteWorker):
    """A remote worker that knows its node; ``ps`` shows it by this name."""

    def locate(self) -> RoomFound:
        """The worker's host and node; answered as soon as its process runs."""
        import ray

        return RoomFound(socket.gethostname(), ray.get_runtime_context().get_node_id())


@dataclass(slots=True, eq=False, kw_only=True)
class PoolWorker:
    """One worker, as the driver sees it.

    Attributes:
        number: in the pool; a worker that replaces another has its number.
        actor, group: Ray's handles; no placement group where a worker fits on one node.
        ref: the call under way; None while idle.
        since: monotonic seconds at which the call began.
        job: what it evaluates; None while it starts or idles.
        holds: digest of the recipe that it merged last.
        stage: it waits for room in the cluster, opens its engine, or is open: at work or idle.
        node, host: where it is, once it found room.
    """

    number: int
    actor: Any
    group: Any
    ref: Any
    since: float
    job: Job | None = None
    stage: Literal["waits", "opens", "open"] = "waits"
    node: str | None = None
    host: str = ""
    holds: str = ""

    @property
    def seconds(self) -> float:
        """Time since the call under way began."""
        return time.monotonic() - self.since

    def begin(self, ref: Any, job: Job | None = None) -> None:
        """Note that a call to the worker was made just now."""
        self.ref, self.job, self.since = ref, job, time.monotonic()
        self.holds = self.holds if job is None else job.recipe.digest

    def has_answered(self) -> bool:
        """Whether the call under way has ended."""
        import ray

        ended, _ = ray.wait([self.ref], timeout=0)
        return bool(ended)

    def has_lost_its_node(self) -> bool:
        import ray

        return any(n["NodeID"] == self.node and not n["Alive"] for n in ray.nodes())

    def kill(self) -> None:
        """Kill the worker's process at once, also in the middle of a call."""
        import ray
        from ray.util.placement_group import remove_placement_group

        try:
            ray.kill(self.actor, no_restart=True)
        except ray.exceptions.RayError as error:
            log.debug("worker %d: %s", self.number, error)
        if self.group is not None:
            remove_placement_group(self.group)


class WorkerPool:
    """Workers, all alike, numbered from 0.

    Args:
        fatal: as for `StartupRetries`.

    Attributes:
        workers: those that run or start, by number.
    """

    def __init__(self, count: int, resources: WorkerResources, fatal: int) -> None:
        self.workers: dict[int, PoolWorker] = {}
        self._count, self._resources = count, resources
        self._due: dict[int, float] = {}  # those to start again, and at which monotonic second
        self._retries = StartupRetries(count, fatal)

    @property
    def gpus(self) -> float:
        return self._resources.gpus * sum(w.stage != "waits" for w in self.workers.values())

    def start(self, setup: WorkerSetup, expected: Inspection, environment: dict[str, Any]) -> None:
        """Start all workers, with these options of Ray's; they wait for room."""
        self._setup, self._expected, self._environment = setup, expected, environment
        self.workers = {number: self._new(number) for number in range(self._count)}

    def _new(self, number: int) -> PoolWorker:
        import ray
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        need = self._resources
        options: dict[str, Any] = {"num_cpus": need.cpus, "num_gpus": need.gpus}
        group = None
        if need.nodes > 1:
            # one GPU a bundle: the engine starts a process in each, as children of the actor
            gpus = int(need.gpus)
            group = placement_group([{"CPU": need.cpus / gpus, "GPU": 1}] * gpus, strategy="PACK")
            options = {"num_cpus": need.cpus / gpus, "num_gpus": 0}
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
            )
        # Ray never restarts it or repeats a call: only the driver knows what it was doing
        remote = ray.remote(EvomergeWorker).options(
            max_restarts=0, max_task_retries=0, **options, **self._environment
        )
        actor = remote.remote(self._setup, self._expected)
        now = time.monotonic()
        return PoolWorker(
            number=number, actor=actor, group=group, ref=actor.locate.remote(), since=now
        )

    def start_due(self) -> None:
        """Start again the workers that have waited long enough since they failed to start."""
        now = time.monotonic()
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            self.workers[number] = self._new(number)

    def has_room(self, worker: PoolWorker, room: RoomFound) -> None:
        """Let a worker that found room open its engine."""
        worker.stage, worker.node, worker.host = "opens", room.node, room.host
        self._retries.has_room(worker.number)
        worker.begin(worker.actor.open.remote())

    def opened(self, worker: PoolWorker) -> None:
        """Note that a worker is open, and idle."""
        worker.stage, worker.ref = "open", None
        self._retries.opened(worker.number)

    def still_waits(self, worker: PoolWorker) -> None:
        """Note that a worker has long found no room.

        Raises:
            EvomergeError: all others fail to start.
        """
        log.warning("worker %d has found no room for %.0f s", worker.number, worker.seconds)
        worker.begin(worker.ref)
        self._retries.waits(worker.number)
        self._require_one_that_can_recover()

    def replace(self, worker: PoolWorker) -> None:
        """Kill a worker and start another with its number."""
        worker.kill()
        self.workers[worker.number] = self._new(worker.number)

    def retry_later(self, worker: PoolWorker, reason: str, refusal: Refusal | None) -> None:
        """Kill a worker that could not be started, and start it again after a while.

        Raises:
            EvomergeError: no worker can be started.
        """
        error: EvomergeError = SearchError(f"no worker can be opened: {reason}")
        if refusal is not None and refusal.of_node:
            error = refusal.error()
        seconds = self._retries.failed(worker.number, error)
        text = "worker %d cannot be opened, next attempt in %.0f s: %s"
        log.warning(text, worker.number, seconds, reason)
        worker.kill()
        del self.workers[worker.number]
        self._due[worker.number] = time.monotonic() + seconds
        self._require_one_that_can_recover()

    def _require_one_that_can_recover(self) -> None:
        if (error := self._retries.fatal_error) is not None:
            raise error

    def stop(self) -> None:
        """Close the engines of idle workers, then end all."""
        import ray

        workers, self.workers = list(self.workers.values()), {}
        self._due.clear()
        if not ray.is_initialized():
            return
        closing = [worker.actor.close.remote() for worker in workers if worker.ref is None]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_SECONDS)
        for worker in workers:
            worker.kill()
