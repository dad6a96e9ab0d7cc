"""Workers on a Ray cluster: one process per engine, replaced when it dies, hangs or is full."""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import socket
import tempfile
import time
from collections import deque
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from evomerge.errors import ConfigError, InputError, SearchError
from evomerge.executors import Executor, TellOrder
from evomerge.executors._deadline import Deadline
from evomerge.executors._inspection import differences, inspect_machine
from evomerge.executors._remote import Answer, Opened, Refusal, RemoteWorker
from evomerge.nouns import Evaluation, Job, Split
from evomerge.worker import WorkerSetup

log = logging.getLogger(__name__)

FATAL = 3  # workers that a candidate may take down before it is the one to blame
_POLL_SECONDS = 1.0
_FAREWELL_SECONDS = 10.0
_KNOCK_SECONDS = 10.0
_INSPECTION_SECONDS = 600.0

Positive = Annotated[float, Field(gt=0)]
_Key = tuple[int, Split]


class EvomergeWorker(RemoteWorker):
    """A remote worker that knows its node; ``ps`` shows it by this name."""

    def open(self) -> Opened | Refusal:
        """See `RemoteWorker.open`."""
        import ray

        answer = super().open()
        if isinstance(answer, Refusal):
            return answer
        return replace(answer, node=ray.get_runtime_context().get_node_id())


@dataclass(slots=True, eq=False)
class _Member:
    """One place of the crew, and who fills it now.

    Attributes:
        number: of the place.
        actor, group: Ray's handles; no group where a worker fits on one node.
        ref: the call under way; None while idle.
        job: what it evaluates; None while it opens or idles.
        since: monotonic seconds at which the call began.
        node, host: where it is, once it is open.
    """

    number: int
    actor: Any
    group: Any
    ref: Any
    since: float
    job: Job | None = None
    node: str | None = None
    host: str = ""


class RayExecutor(Executor):
    """Keeps a crew of workers at work on a Ray cluster.

    Each worker is an actor with an engine of its own, opened once. One that dies, hangs or runs out
    of memory is replaced and its candidate evaluated elsewhere; a candidate that takes three
    workers down has failed. A candidate whose evaluation says that memory ran out fails at once.
    A node that leaves is nobody's fault: its candidates start again without a mark.

    Args:
        address: ``auto``: the cluster of this machine or of the submitted job; ``local``: one for
            this run alone, on this machine; else ``ray://host:port`` or ``host:port``.
        workers: how many engines; as many as fit work, the others join when there is room.
        gpus_per_worker: for one engine; below 1, several share a device.
        cpus_per_worker: likewise; Ray sets ``OMP_NUM_THREADS`` to it.
        nodes_per_worker: over how many nodes the GPUs of one engine may spread.
        tell_order: see `Executor`.
        lookahead: with ``tell_order: asked``; by default twice the workers.
        runtime_env: Ray's runtime environment of the workers, passed on as it is.
        first_deadline_seconds: a candidate may take, while few have been timed.
        deadline_minimum_seconds: it may always take.
        deadline_factor: times the 0.95 quantile of the times seen, it may take later.
        start_timeout_seconds: a worker may take to open its engine.

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
        self.address = address
        self.capacity = workers
        self.tell_order = tell_order
        self.lookahead = lookahead or 2 * workers
        self.gpus = workers * gpus_per_worker
        self._gpus, self._cpus, self._nodes = gpus_per_worker, cpus_per_worker, nodes_per_worker
        self._runtime_env = runtime_env
        self._deadline = Deadline(first_deadline_seconds, deadline_minimum_seconds, deadline_factor)
        self._start_timeout = start_timeout_seconds
        self._queue: deque[Job] = deque()
        self._faults: dict[_Key, list[str]] = {}  # what happened to the workers that had it
        self._crew: list[_Member] = []
        self._ours = False  # whether the connection ends with this executor
        self._scratch: str | None = None
        self._failed_openings = 0

    def start(self, setup: WorkerSetup) -> None:
        """See `Executor.start`. Returns when the first worker is open.

        Raises:
            InputError: no such cluster, no room in it, or nodes with other files or versions;
                all of these at once.
        """
        self._setup = setup
        self._expected = inspect_machine(setup)
        if self._expected.problems:
            raise InputError(self._expected.problems)
        self._connect()
        self._inspect_nodes()
        self._crew = [self._hire(number) for number in range(self.capacity)]
        while not any(member.ref is None for member in self._crew):
            self._wait()

    def submit(self, job: Job) -> None:
        """See `Executor.submit`."""
        self._queue.append(job)
        self._assign()

    def result(self) -> tuple[Job, Evaluation]:
        """See `Executor.result`."""
        while True:
            self._assign()
            if (finished := self._wait()) is not None:
                return finished

    def close(self) -> None:
        """See `Executor.close`."""
        import ray

        crew, self._crew = self._crew, []
        self._queue.clear()
        self._faults.clear()
        if ray.is_initialized():
            idle = [m for m in crew if m.ref is None]
            farewells = [member.actor.close.remote() for member in idle]
            if farewells:
                ray.wait(farewells, num_returns=len(farewells), timeout=_FAREWELL_SECONDS)
            for member in crew:
                self._dismiss(member)
            if self._ours:
                ray.shutdown()
        self._ours = False
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def _connect(self) -> None:
        """Join the cluster, or start one; signals stay ours."""
        import ray

        if ray.is_initialized():
            return
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        environment = self._runtime_env or {}
        if self.address == "local":
            self._scratch = _scratch()
            options |= {"_temp_dir": self._scratch, "include_dashboard": False}
            options["num_cpus"] = math.ceil(self.capacity * self._cpus)
            # what a killed worker leaves goes with the rest
            variables = {"TMPDIR": self._scratch, **environment.get("env_vars", {})}
            environment = {**environment, "env_vars": variables}
        if environment:
            options["runtime_env"] = environment
        handler = signal.getsignal(signal.SIGTERM)
        try:
            _knock(self.address)
            ray.init(address=self.address, **options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise InputError(
                f"executor.address: {self.address}: no Ray cluster answers there: {error}. "
                "Start one with 'ray start --head', or take address: local."
            ) from None
        finally:
            signal.signal(signal.SIGTERM, handler)  # Ray sets one of its own
        self._ours = True

    def _inspect_nodes(self) -> None:
        """Compare every node that could hold a worker with this machine."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        share = self._nodes  # a part of the engine on each
        need = {"CPU": self._cpus / share, "GPU": self._gpus / share}
        nodes = [node for node in ray.nodes() if node["Alive"]]
        fit = [
            node
            for node in nodes
            if all(node["Resources"].get(kind, 0) >= amount for kind, amount in need.items())
        ]
        if len(fit) < share:
            have = "; ".join(
                f"{n['NodeManagerAddress']} has {n['Resources'].get('CPU', 0):g} CPUs and "
                f"{n['Resources'].get('GPU', 0):g} GPUs"
                for n in nodes
            )
            raise InputError(
                f"executor: a worker needs {self._cpus:g} CPUs and {self._gpus:g} GPUs on "
                f"{share} nodes; {have}. Ask for less, or add nodes."
            )
        remote = ray.remote(inspect_machine)
        refs = [
            remote.options(
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
                **self._environment(),
            ).remote(self._setup)
            for node in fit
        ]
        problems: list[str] = []
        for node, ref in zip(fit, refs, strict=True):
            where = f"node {node['NodeManagerAddress']}"
            try:
                found = ray.get(ref, timeout=_INSPECTION_SECONDS)
                problems += differences(self._expected, found, where)
            except Exception as error:
                problems.append(f"{where}: cannot be inspected: {error}. Is evomerge installed?")
        if problems:
            raise InputError(problems)

    def _environment(self) -> dict[str, Any]:
        return {} if self._ours or not self._runtime_env else {"runtime_env": self._runtime_env}

    def _hire(self, number: int) -> _Member:
        """A new worker, opening its engine."""
        import ray
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        options: dict[str, Any] = {"num_cpus": self._cpus, "num_gpus": self._gpus}
        group = None
        if self._nodes > 1:
            # one GPU a bundle: the engine starts a process in each, as children of the actor
            gpus = int(self._gpus)
            group = placement_group([{"CPU": self._cpus / gpus, "GPU": 1}] * gpus, strategy="PACK")
            options = {"num_cpus": self._cpus / gpus, "num_gpus": 0}
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
            )
        # Ray never restarts it or repeats a call: only here is known what it was doing
        kind = ray.remote(EvomergeWorker).options(
            max_restarts=0, max_task_retries=0, **options, **self._environment()
        )
        actor = kind.remote(self._setup, self._expected)
        return _Member(number, actor, group, actor.open.remote(), time.monotonic())

    def _dismiss(self, member: _Member) -> None:
        """End a worker, whatever it is doing."""
        import ray
        from ray.util.placement_group import remove_placement_group

        try:
            ray.kill(member.actor, no_restart=True)
        except ray.exceptions.RayError as error:
            log.debug("worker %d: %s", member.number, error)
        if member.group is not None:
            remove_placement_group(member.group)

    def _assign(self) -> None:
        for member in self._crew:
            if member.ref is None and self._queue:
                job = self._queue.popleft()
                member.job, member.since = job, time.monotonic()
                member.ref = member.actor.evaluate.remote(job)

    def _wait(self) -> tuple[Job, Evaluation] | None:
        """What the next call that ends has brought; None when it brought no result."""
        import ray

        at_work = {member.ref: member for member in self._crew if member.ref is not None}
        ended, _ = ray.wait(list(at_work), num_returns=1, timeout=_POLL_SECONDS)
        if ended:
            return self._ended(at_work[ended[0]])
        for member in at_work.values():
            seconds = time.monotonic() - member.since
            limit = self._start_timeout if member.job is None else self._deadline.seconds
            if seconds > limit:
                return self._lost(member, f"no answer for {seconds:.0f} s")
        return None

    def _ended(self, member: _Member) -> tuple[Job, Evaluation] | None:
        """Take in what a worker answered, or that it died."""
        import ray

        try:
            answer = ray.get(member.ref)
        except ray.exceptions.RayTaskError as error:
            raise SearchError(f"worker {member.number}: {error}") from None
        except ray.exceptions.RayError as error:
            return self._lost(member, f"{type(error).__name__}: {_first_line(error)}")
        if isinstance(answer, Refusal):
            if answer.final:
                raise answer.error()
            return self._lost(member, "\n".join(answer.problems))
        job, member.job, member.ref = member.job, None, None
        if isinstance(answer, Opened):
            member.node, member.host = answer.node, answer.host
            self._failed_openings = 0
            return None
        assert isinstance(answer, Answer)
        assert job is not None
        self._deadline.observe(time.monotonic() - member.since)
        self._faults.pop((job.number, job.split), None)
        if answer.exhausted:
            self._replace(member)
        return job, replace(answer.evaluation, worker=f"{member.number} on {member.host}")

    def _lost(self, member: _Member, reason: str) -> tuple[Job, Evaluation] | None:
        """Replace a worker; its job goes first in the queue, or has failed."""
        job, blameless = member.job, self._has_left(member)
        log.warning("worker %d is replaced: %s", member.number, reason)
        if job is None and not blameless:
            self._failed_openings += 1
            if self._failed_openings >= FATAL and all(m.ref is not None for m in self._crew):
                raise SearchError(f"no worker can be opened: {reason}")
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

    def _replace(self, member: _Member) -> None:
        self._dismiss(member)
        self._crew[self._crew.index(member)] = self._hire(member.number)

    def _has_left(self, member: _Member) -> bool:
        """Whether the worker's node is no longer part of the cluster."""
        import ray

        return any(n["NodeID"] == member.node and not n["Alive"] for n in ray.nodes())


def _knock(address: str) -> None:
    """Raise OSError where nobody listens; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()


def _scratch() -> str:
    """A new folder for a cluster of our own; those that killed processes left are removed."""
    root = Path("/tmp")  # noqa: S108 - short: sockets in it have paths of at most 107 bytes
    for folder in root.glob("evomerge-ray-*-*"):
        owner = folder.name.split("-")[2]
        if not Path("/proc", owner).exists():
            shutil.rmtree(folder, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"evomerge-ray-{os.getpid()}-", dir=root)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
