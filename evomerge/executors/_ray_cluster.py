"""The Ray cluster of a run: joined or started, its nodes compared, and left without a trace."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.errors import InputError
from evomerge.executors._inspection import Inspection, differences, inspect_machine
from evomerge.worker import WorkerSetup

_KNOCK_SECONDS = 10.0
_INSPECTION_SECONDS = 600.0
_ROOT = Path("/tmp")  # noqa: S108 - short: sockets in it have paths of at most 107 bytes
_PREFIX = "evomerge-ray-"


@dataclass(frozen=True, slots=True)
class Demand:
    """What each worker needs.

    Attributes:
        gpus: for one engine; below 1, several share a device.
        cpus: likewise.
        nodes: over how many nodes the GPUs of one engine may spread.
    """

    gpus: float
    cpus: float
    nodes: int


class Cluster:
    """A connection to a cluster.

    Args:
        address: as in `RayExecutor`.
        runtime_env: Ray's runtime environment of the workers.
    """

    def __init__(self, address: str, runtime_env: dict[str, Any]) -> None:
        self.address = address
        self._runtime_env = runtime_env
        self._ours = False  # whether the connection ends with this object
        self._scratch: _Scratch | None = None

    @property
    def environment(self) -> dict[str, Any]:
        """Options of every task and actor, unless the whole connection has them."""
        return {} if self._ours or not self._runtime_env else {"runtime_env": self._runtime_env}

    def join(self, cpus: int) -> None:
        """Connect, or start a cluster on this machine.

        Args:
            cpus: of a cluster that is started.

        Raises:
            InputError: no cluster answers.
        """
        import ray

        if ray.is_initialized():
            return
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        environment = self._runtime_env
        if self.address == "local":
            self._scratch = _Scratch()
            folder = str(self._scratch.folder)
            options |= {"_temp_dir": folder, "include_dashboard": False, "num_cpus": cpus}
            # what a killed worker leaves goes with the rest
            variables = {"TMPDIR": folder, **environment.get("env_vars", {})}
            environment = {**environment, "env_vars": variables}
        if environment:
            options["runtime_env"] = environment
        with _own_signals():
            try:
                _knock(self.address)
                ray.init(address=self.address, **options)
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                raise InputError(
                    f"executor.address: {self.address}: no Ray cluster answers there: {error}. "
                    "Start one with 'ray start --head', or take address: local."
                ) from None
        self._ours = True

    def leave(self) -> None:
        """Disconnect, and end a cluster of our own. May be called twice."""
        import ray

        if self._ours and ray.is_initialized():
            ray.shutdown()
        self._ours = False
        if self._scratch is not None:
            self._scratch.remove()
        self._scratch = None

    def inspect(self, setup: WorkerSetup, expected: Inspection, demand: Demand) -> None:
        """Compare every node that could hold a worker with this machine.

        Raises:
            InputError: no room in the cluster, or nodes with other files or versions.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        fit = _fit(ray.nodes(), demand)
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
                found = ray.get(ref, timeout=_INSPECTION_SECONDS)
                problems += differences(expected, found, where)
            except Exception as error:
                problems.append(f"{where}: cannot be inspected: {error}. Is evomerge installed?")
        if problems:
            raise InputError(problems)


def _fit(nodes: list[dict[str, Any]], demand: Demand) -> list[dict[str, Any]]:
    """The nodes that could hold a worker, or its part of one.

    Raises:
        InputError: too few of them.
    """
    need = {"CPU": demand.cpus / demand.nodes, "GPU": demand.gpus / demand.nodes}
    alive = [node for node in nodes if node["Alive"]]
    fit = [
        node
        for node in alive
        if all(node["Resources"].get(kind, 0) >= amount for kind, amount in need.items())
    ]
    if len(fit) >= demand.nodes:
        return fit
    have = "; ".join(
        f"{node['NodeManagerAddress']} has {node['Resources'].get('CPU', 0):g} CPUs and "
        f"{node['Resources'].get('GPU', 0):g} GPUs"
        for node in alive
    )
    raise InputError(
        f"executor: a worker needs {demand.cpus:g} CPUs and {demand.gpus:g} GPUs on "
        f"{demand.nodes} nodes; {have}. Ask for less, or add nodes."
    )


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray sets a handler of SIGTERM; ours is put back.

    In another than the main thread Ray sets none, and Python would let nobody put one back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def _knock(address: str) -> None:
    """Raise OSError where nobody listens; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()


class _Scratch:
    """A folder for a cluster of our own; those that killed processes left are removed.

    Whose process lives is told by a lock on the folder, which the system frees with the process: a
    process number may be another's by then, or of another container.
    """

    def __init__(self) -> None:
        _sweep()
        while True:
            self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_ROOT))
            self._lock = os.open(self.folder, os.O_RDONLY)  # no child inherits it
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self.folder.exists():
                return
            os.close(self._lock)  # another run swept it away before it was locked

    def remove(self) -> None:
        """Remove it, and what Ray's last processes of a killed run put back since the start."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)
        _sweep()


def _sweep() -> None:
    for folder in _ROOT.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's, or gone
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
