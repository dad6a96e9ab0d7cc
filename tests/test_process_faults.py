"""Processes and threads that cannot be started are known from what would only have to wait."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from evomerge.faults import cure_for_machine

NO_PROCESSES = """
import os, resource, subprocess
from evomerge.faults import cure_for_machine
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
if os.getuid() == 0:  # whom no such limit binds
    os.setuid(65534)
for start in (lambda: subprocess.run(["true"], close_fds=False), lambda: os.fork() or os._exit(0)):
    try:
        start()
    except BlockingIOError as error:
        print(cure_for_machine(error))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit counts otherwise elsewhere")
def test_processes_that_cannot_be_started_are_the_machines() -> None:
    command = [sys.executable, "-c", NO_PROCESSES]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found = done.stdout.splitlines()
    assert len(found) == 2
    assert all(cure.startswith("Allow more processes") for cure in found)


@pytest.mark.parametrize(
    "text",
    [
        'failed to spawn thread: Os { code: 11, message: "Resource temporarily unavailable" }',
        "sh: fork: retry: Resource temporarily unavailable",
    ],
)
def test_a_lack_of_processes_is_known_in_text(text: str) -> None:
    cure = cure_for_machine(RuntimeError(text))
    assert cure is not None
    assert cure.startswith("Allow more processes")


def nothing_to_read() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    try:
        os.read(reading, 1)
    finally:
        os.close(reading)
        os.close(writing)


def locked_by_another() -> None:
    with TemporaryDirectory() as folder, ExitStack() as files:
        for _ in range(2):
            one = files.enter_context((Path(folder) / "lock").open("w"))
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("fault", [nothing_to_read, locked_by_another])
def test_what_would_wait_is_no_lack_of_processes(fault: Callable[[], None]) -> None:
    with pytest.raises(BlockingIOError) as raised:
        fault()
    assert cure_for_machine(raised.value) is None
