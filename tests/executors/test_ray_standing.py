"""Runs on a cluster that stood before them: from outside it, and as jobs submitted to it."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE_SECONDS, RAY, Processes, Run, evomerge, wait_for

pytestmark = pytest.mark.slow

Rows = list[tuple[Any, ...]]
_RAY = (sys.executable, "-m", "ray.scripts.scripts")
_VARIABLES = {
    "RAY_CLIENT_RECONNECT_GRACE_PERIOD": "5",  # seconds in which a client may come back, not 30
    "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "15",  # for a server that is dead too, not 30
    "RAY_JOB_STOP_WAIT_TIME_S": "60",  # before SIGKILL, not 3: the machine may be busy
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}


class Head(Processes):
    """``ray start --head`` on ports of its own, with the servers of ``ray://`` and of jobs."""

    def __init__(self) -> None:
        super().__init__(_VARIABLES)
        client, dashboard, agent = free_ports(3)
        self.address = f"ray://127.0.0.1:{client}"
        self.jobs = f"http://127.0.0.1:{dashboard}"
        self.start(
            [
                *(*_RAY, "start", "--head", "--block", "--disable-usage-stats"),
                *("--num-cpus=4", "--port=0", f"--ray-client-server-port={client}"),
                *(f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"),
                f"--temp-dir={self.temporary}",
            ]
        )

    def submit(self, name: str, *words: object, wait: bool = False) -> str:
        """What was printed: with ``wait`` when the job has ended, and whether it succeeded."""
        options = [f"--submission-id={name}", *([] if wait else ["--no-wait"])]
        return self.job("submit", *options, "--", *evomerge(*words))

    def job(self, *words: str) -> str:
        """A subcommand of ``ray job``, as a person types it, and what it printed."""
        command, *rest = words
        done = subprocess.run(
            [*_RAY, "job", command, "--address", self.jobs, *rest],
            capture_output=True,
            text=True,
            env=os.environ | self.variables,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, for now."""
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in taken]
    for one in taken:
        one.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with Head() as made:
        wait_for(lambda: listens(made.jobs) and listens(made.address), made.started[0])
        yield made


def listens(address: str) -> bool:
    host, port = address.partition("://")[2].split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def test_from_outside_a_lost_connection_and_a_killed_driver_lose_nothing(
    head: Head, undisturbed: Rows, tmp_path: Path
) -> None:
    with Run(tmp_path, variables=_VARIABLES, **RAY | {"address": head.address}) as run:
        process = run.begin_slowly()
        wait_for(lambda: run.events() > 3, process)
        os.kill(head.workers()[0], signal.SIGKILL)
        seen = run.events()
        wait_for(lambda: run.events() > seen + 4, process)
        servers = [n for n, line in head.living().items() if b"--mode=specific-server" in line]
        for number in servers:
            with suppress(ProcessLookupError):  # that of an earlier driver, ending
                os.kill(number, signal.SIGKILL)
        assert servers
        _, talk = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 1, talk
        assert f"{head.address}: the connection to the cluster is lost" in talk
        assert "_InactiveRpcError" not in talk
        assert "Traceback" not in talk
        seen = run.events()
        process = run.go_on()
        wait_for(lambda: run.events() > seen + 4, process)
        process.kill()
        process.communicate()
        run.hurry()
        code, talk = run.resume()
        assert code == 0, talk
        assert run.rows() == undisturbed
        wait_for(lambda: not head.workers())


def test_a_submitted_job_that_is_stopped_is_resumed_by_another(
    head: Head, undisturbed: Rows, tmp_path: Path
) -> None:
    with Run(tmp_path, **RAY | {"address": "auto"}) as run:  # its files: the cluster starts it
        run.pace.touch()
        head.submit("first", "run", run.file, "--run", run.folder)
        wait_for(lambda: run.events() > 3)
        head.job("stop", "first")
        assert f"evomerge resume {run.folder}" in head.job("logs", "first")
        wait_for(lambda: not head.workers())
        run.hurry()
        assert "succeeded" in head.submit("second", "resume", run.folder, wait=True)
        assert run.rows() == undisturbed
