"""The Ray cluster of a run: joining or starting it, comparing its nodes, and leaving it."""

from __future__ import annotations

import logging
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from evomerge.errors import EvomergeError, InputError, Problem, SearchError
from evomerge.executors._inspection import Inspection, differences, inspect_machine
from evomerge.executors._ray_scratch import Scratch, keep_token_private
from evomerge.worker import WorkerSetup

_PROBE_SECONDS = 10.0
_INSPECTION_SECONDS = 600.0
_JOIN_PAUSES = (3.0, 3.0)  # seconds
# what Ray says where the server that it started for a driver has ended at once
_ENDED_SERVER = ("Starting Ray client server failed", "ZombieProcess", "NoSuchProcess")


@dataclass(frozen=True, slots=True)
class WorkerResources:
    """What each worker needs of a cluster: see `RayExecutor`."""

    gpus: float
    cpus: float
    nodes: int


class Cluster:
    """A connection to a cluster; its address and runtime environment are those of `RayExecutor`."""

    def __init__(self, address: str, runtime_env: dict[str, Any]) -> None:
        self.address = address
        self._runtime_env = runtime_env
        self._ours = False  # whether this object made the connection, and ends it
        self._scratch: Scratch | None = None

    @property
    def environment(self) -> dict[str, Any]:
        """Options of every task and actor; none where the whole connection has them already."""
        return {} if self._ours or not self._runtime_env else {"runtime_env": self._runtime_env}

    def join(self, cpus: int) -> None:
        """Connect, or start a cluster on this machine.

        Args:
            cpus: of a cluster that is started.

        Raises:
            InputError: no cluster answers.
            SearchError: a cluster of the run's own does not start.
        """
        import ray

        if ray.is_initialized():
            return
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        environment = self._runtime_env
        alone = ExitStack()  # what a cluster of the run's own is started within
        if self.address == "local":
            self._scratch = Scratch()
            folder = str(self._scratch.for_ray)
            options |= {"_temp_dir": folder, "include_dashboard": False, "num_cpus": cpus}
            # what a killed worker leaves goes with the rest
            variables = {"TMPDIR": str(self._scratch.folder), **environment.get("env_vars", {})}
            environment = {**environment, "env_vars": variables}
            keep_token_private()
            alone.enter_context(self._scratch.marked())
            alone.enter_context(_loopback())
        if environment:
            options["runtime_env"] = environment
        with _own_signals(), alone:
            try:
                _probe(self.address)
                _connect(self.address, options)
            except Exception as error:  # Ray has no class for a machine that is too slow
                raise self._unreachable(error) from None
        self._ours = True

    def _unreachable(self, error: Exception) -> EvomergeError:
        """The error for a cluster that cannot be joined or started."""
        if self._scratch is not None:
            return SearchError(
                f"executor.address: local: Ray does not start on {socket.gethostname()}: {error} "
                "See what else keeps the machine busy, then resume the run."
            )
        text = f"{self.address}: no Ray cluster answers there: {error}."
        cure = (
            "Start one with 'ray start --head', or take address: local. "
            "If it needs a token, set RAY_AUTH_MODE=token, as docs/cluster says."
        )
        return InputError(Problem(("executor", "address"), text, cure))

    def leave(self) -> None:
        """Disconnect, and end a cluster of the run's own. May be called twice."""
        import ray

        if self._ours and ray.is_initialized():
            with _own_signals():
                ray.shutdown()
        self._ours = False
        if self._scratch is not None:
            self._scratch.remove()
        self._scratch = None

    def require_node(self) -> None:
        """Raise when a cluster of the run's own has lost its node: no other will ever join it.

        Raises:
            SearchError: Ray's node on this machine has ended.
        """
        import ray

        if self._scratch is not None and not any(node["Alive"] for node in ray.nodes()):
            raise SearchError(
                f"executor.address: local: Ray's node on {socket.gethostname()} has ended, perhaps "
                "killed for memory. See what the machine's log says of it, then resume the run."
            )

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Turn what Ray's client raises for a broken connection into an error that says so.

        Raises:
            SearchError: the connection to the cluster is lost.
        """
        try:
            yield
        except broken_connections() as error:
            # gRPC's text begins with the name of its class
            details = re.search(r'details = "(.*)"', str(error))
            reason = details[1] if details else str(error).strip().partition("\n")[0]
            raise SearchError(
                f"executor.address: {self.address}: the connection to the cluster is lost: "
                f"{reason.rstrip('.')}. See whether its head still runs, then resume the run."
            ) from None

    def inspect(self, setup: WorkerSetup, expected: Inspection, need: WorkerResources) -> None:
        """Compare every node that could hold a worker with this machine.

        Raises:
            InputError: no room in the cluster, or nodes with other files or versions.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        fit = _fit(ray.nodes(), need)
        remote = ray.remote(inspect_machine)
        refs = [
            remote.options(
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
                **self.environment,
            ).remote(setup)
            for node in fit
        ]
        problems: list[str] = []
        for node, ref in zip(fit, refs, strict=True):
            where = f"node {node['NodeManagerAddress']}"
            try:
                actual = ray.get(ref, timeout=_INSPECTION_SECONDS)
                problems += differences(expected, actual, where)
            except broken_connections():
                raise
            except Exception as error:
                problems.append(f"{where}: cannot be inspected: {error}. Is evomerge installed?")
        if problems:
            raise InputError(problems)


def _fit(nodes: list[dict[str, Any]], need: WorkerResources) -> list[dict[str, Any]]:
    """The nodes that could hold a worker, or their share of one.

    Raises:
        InputError: too few of them.
    """
    on_each = {"CPU": need.cpus / need.nodes, "GPU": need.gpus / need.nodes}
    alive = [node for node in nodes if node["Alive"]]
    fit = [
        node
        for node in alive
        if all(node["Resources"].get(kind, 0) >= amount for kind, amount in on_each.items())
    ]
    if len(fit) >= need.nodes:
        return fit
    have = "; ".join(
        f"{node['NodeManagerAddress']} has {node['Resources'].get('CPU', 0):g} CPUs and "
        f"{node['Resources'].get('GPU', 0):g} GPUs"
        for node in alive
    )
    text = (
        f"a worker needs {need.cpus:g} CPUs and {need.gpus:g} GPUs on {need.nodes} nodes; {have}."
    )
    raise InputError(Problem(("executor",), text, "Ask for less, or add nodes."))


@contextmanager
def _own_signals() -> Iterator[None]:
    """Put our handler of SIGTERM back, in place of which Ray sets its own.

    While Ray starts, its handler would end the interpreter: a signal that comes then is raised
    again for ours. Outside the main thread Ray sets none, and Python lets nobody put one back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        signal.signal(signal.SIGTERM, handler)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _loopback() -> Iterator[None]:
    """Let what Ray starts listen on 127.0.0.1 alone, as it does where it supports no clusters.

    Ray replaces a loopback address that it is given, so that other machines could connect.
    """
    from ray._private import ray_constants

    clusters = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters


def broken_connections() -> tuple[type[Exception], ...]:
    """What the client of ``ray://`` raises when a connection breaks; not all are classes of Ray."""
    import grpc

    return ConnectionError, grpc.RpcError


def _connect(address: str, options: dict[str, Any]) -> None:
    """Join a cluster, with a few attempts where Ray has just ended the server of another driver.

    ``ray://`` may give out the port of a server that is still ending, and refuse whoever gets it.
    On a busy machine a server may end before Ray has seen it begin.
    """
    import ray

    for pause in _JOIN_PAUSES:
        try:
            ray.init(address=address, **options)
        except ConnectionAbortedError as error:
            if not any(words in str(error) for words in _ENDED_SERVER):
                raise  # such as a runtime environment that cannot be made
            time.sleep(pause)
        else:
            return
    ray.init(address=address, **options)


def _probe(address: str) -> None:
    """Raise OSError where nobody listens: Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS).close()
