"""The workers of a run on Ray: one process per engine."""

from __future__ import annotations

import logging
import socket
import time
from dataclasses import dataclass
from typing import Any, Literal

from evomerge.executors._inspection import Inspection
from evomerge.executors._ray_cluster import Demand
from evomerge.executors._remote import Arrived, RemoteWorker
from evomerge.types import Job
from evomerge.worker import WorkerSetup

log = logging.getLogger(__name__)


class EvomergeWorker(RemoteWorker):
    """A remote worker that knows its node; ``ps`` shows it by this name."""

    def arrive(self) -> Arrived:
        """Tell where it is; answered as soon as the process runs."""
        import ray

        return Arrived(socket.gethostname(), ray.get_runtime_context().get_node_id())


@dataclass(slots=True, eq=False)
class Member:
    """One place of the crew, and who fills it now.

    Attributes:
        number: of the place.
        actor, group: Ray's handles; no group where a worker fits on one node.
        ref: the call under way; None while idle.
        job: what it evaluates; None while it opens or idles.
        since: monotonic seconds at which the call began.
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

    def begin(self, ref: Any, job: Job | None = None) -> None:
        """Note a call that was made just now."""
        self.ref, self.job, self.since = ref, job, time.monotonic()


@dataclass(frozen=True, slots=True)
class Agency:
    """Hires workers, all alike.

    Attributes:
        setup, expected: what each is started with, and must find on its machine.
        environment: Ray's options of each.
    """

    setup: WorkerSetup
    expected: Inspection
    demand: Demand
    environment: dict[str, Any]

    def hire(self, number: int) -> Member:
        """A new worker, waiting for room."""
        import ray
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        need = self.demand
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
        # Ray never restarts it or repeats a call: only here is known what it was doing
        kind = ray.remote(EvomergeWorker).options(
            max_restarts=0, max_task_retries=0, **options, **self.environment
        )
        actor = kind.remote(self.setup, self.expected)
        return Member(number, actor, group, actor.arrive.remote(), time.monotonic())


def dismiss(member: Member) -> None:
    """End a worker, whatever it is doing."""
    import ray
    from ray.util.placement_group import remove_placement_group

    try:
        ray.kill(member.actor, no_restart=True)
    except ray.exceptions.RayError as error:
        log.debug("worker %d: %s", member.number, error)
    if member.group is not None:
        remove_placement_group(member.group)


def has_answered(member: Member) -> bool:
    """Whether the call under way has ended."""
    import ray

    ended, _ = ray.wait([member.ref], timeout=0)
    return bool(ended)


def has_left(member: Member) -> bool:
    """Whether the worker's node is no longer part of the cluster."""
    import ray

    return any(n["NodeID"] == member.node and not n["Alive"] for n in ray.nodes())
