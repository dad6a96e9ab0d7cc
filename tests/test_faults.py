"""Errors as machines make them, and as libraries wrap them, are known from mistakes of a scorer."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from evomerge.errors import CheckpointError, MachineError, OutputError
from evomerge.faults import cure_for_machine
from evomerge.store import Store

FULL, BROKEN = Path("/dev/full"), Path("/proc/self/mem")


@contextmanager
def limit(kind: int, value: int) -> Iterator[None]:
    """Another soft limit of this process."""
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


def full_disk() -> None:
    FULL.write_text("x")


def broken_disk() -> None:
    BROKEN.read_bytes()  # nothing is mapped at address 0: EIO


def no_more_files() -> None:
    with limit(resource.RLIMIT_NOFILE, 64), ExitStack() as files:
        for _ in range(64):
            files.enter_context(Path(os.devnull).open())


@contextmanager
def small_disk() -> Iterator[Path]:
    """A file of which only the first byte can be written."""
    with TemporaryDirectory() as folder, limit(resource.RLIMIT_FSIZE, 1):
        yield Path(folder) / "file"


def largest_file() -> None:
    with small_disk() as file:
        file.write_text("xx")


def full_disk_in_safetensors() -> None:
    with small_disk() as file:
        save_file({"x": torch.zeros(4)}, file)


def full_disk_in_torch() -> None:
    with small_disk() as file:
        torch.save(torch.zeros(1 << 16), file)


def broken_disk_in_safetensors() -> None:
    raise CheckpointError("m.safetensors: cannot be read: Input/output error (os error 5)")


def nobody_listens() -> None:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        socket.create_connection(free.getsockname())


def lost_connection() -> None:
    with closing(socket.socket()) as unconnected:
        unconnected.getpeername()


def unknown_host() -> None:
    socket.getaddrinfo("no address", 1, flags=socket.AI_NUMERICHOST)


def pool_of(call: Callable[..., Any], *words: Any) -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        pool.submit(call, *words).result()


def dead_process() -> None:
    pool_of(os._exit, 1)


def full_disk_elsewhere() -> None:
    pool_of(full_disk)


def full_disk_hidden_elsewhere() -> None:
    pool_of(handled_and_wrapped)


def handled_and_wrapped() -> None:
    try:
        full_disk()
    except OSError as error:
        raise ValueError("no scores") from error


def one_of_several_elsewhere() -> None:
    pool_of(one_of_several)


def full_disk_in_a_program() -> None:
    code = """
try:
    with open("/dev/full", "w") as file:
        file.write("x")
finally:
    raise ValueError("no scores")
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def full_disk_of_a_known_library_elsewhere() -> None:
    pool_of(hidden_in_sqlite)


def hidden_in_sqlite() -> None:
    try:
        full_disk_in_sqlite()
    except sqlite3.Error as error:
        raise ValueError("no scores") from error


def handled_and_hidden() -> None:
    try:
        full_disk()
    except OSError:
        raise ValueError("no scores") from None


def one_of_several() -> None:
    try:
        full_disk()
    except OSError as error:
        raise ExceptionGroup("two tasks", [ValueError("x"), error]) from KeyError("y")


def full_disk_in_sqlite() -> None:
    with closing(sqlite3.connect(":memory:")) as base:
        base.execute("CREATE TABLE t (x)")
        base.execute("PRAGMA max_page_count = 2")
        base.execute("INSERT INTO t VALUES (zeroblob(100000))")


def own_words() -> None:
    raise OutputError("out: cannot be written: it is a folder")


MACHINES = {
    full_disk: "Make room",
    broken_disk: "Check the disk",
    no_more_files: "Allow more open files",
    largest_file: "Make room",
    full_disk_in_safetensors: "Make room",
    full_disk_in_torch: "Make room",
    full_disk_in_sqlite: "Make room",
    broken_disk_in_safetensors: "Check the disk",
    nobody_listens: "Check the network",
    lost_connection: "Check the network",
    unknown_host: "Check the network",
    dead_process: "Allow more processes",
    full_disk_elsewhere: "Make room",
    full_disk_hidden_elsewhere: "Make room",
    full_disk_of_a_known_library_elsewhere: "Make room",
    full_disk_in_a_program: "Make room",
    one_of_several_elsewhere: "Make room",
    handled_and_hidden: "Make room",
    one_of_several: "Make room",
    own_words: "Check the disk",
}


@pytest.mark.parametrize("fault", MACHINES, ids=lambda fault: fault.__name__)
def test_the_fault_of_a_machine_is_known_however_it_is_wrapped(fault: Callable[[], None]) -> None:
    with pytest.raises(Exception) as raised:
        fault()
    cure = cure_for_machine(raised.value)
    assert cure is not None, repr(raised.value)
    assert cure.startswith(MACHINES[fault])


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EMFILE", "ENFILE", "EIO", "ESTALE", "EROFS"])
def test_numbers_are_known_in_an_error_and_in_text(name: str) -> None:
    number = getattr(errno, name)
    for error in (
        OSError(number, os.strerror(number)),
        RuntimeError(f"cannot load: {os.strerror(number)}"),
        RuntimeError(f"cannot load (os error {number})"),
        RuntimeError(f"cannot load: [Errno {number}] ..."),
    ):
        assert cure_for_machine(error) is not None


SCORER = f"""
import runpy
from pathlib import Path

here = Path(__file__).parent

def score(module, split):
    with (here / "calls").open("a") as calls:
        calls.write("x")
    if (here / "fault").exists() and (here / "calls").stat().st_size > 9:
        runpy.run_path({__file__!r})[(here / "fault").read_text()]()
    return 1 / (1 + next(module.parameters()).detach().square().sum(1))
"""


@pytest.mark.parametrize("fault", ["full_disk", "no_more_files", "broken_disk", "dead_process"])
def test_a_run_stops_at_a_fault_of_the_machine_and_goes_on_as_if_there_was_none(
    fault: str, layers: dict[str, Any], tmp_path: Path, cli: Callable[..., Any]
) -> None:
    (tmp_path / "scorer.py").write_text(SCORER)
    space = {"low": 0, "high": 1}
    content = {
        **layers,
        "name": "fault",
        "fitness": {"tasks": {"near": {"scorer": f"{tmp_path}/scorer.py:score"}}},
        "space": {"kind": "parameter", "operator": "linear", "parameters": {"weight": space}},
        "optimizer": {"name": "random"},
        "budget": {"evaluations": 12},
    }
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(content))

    def shown(run: str) -> Any:
        rows = json.loads(cli("show", tmp_path / run, "--json").stdout)
        return rows["baselines"], rows["candidates"]

    assert cli("run", tmp_path / "search.yaml", "--run", tmp_path / "whole").returncode == 0
    (tmp_path / "calls").unlink()
    (tmp_path / "fault").write_text(fault)
    stopped = cli("run", tmp_path / "search.yaml", "--run", tmp_path / "run")
    assert stopped.returncode == 1
    assert "so that nothing is recorded for the candidate" in stopped.stderr
    with Store.open(tmp_path / "run", read_only=True) as store:
        tells = [event.number for event in store.events() if event.kind == "tell"]
        assert len(list(store.evaluations("search"))) == len(tells) == 9
    assert not [row for row in shown("run")[1] if row["status"] == "failed"]
    (tmp_path / "fault").unlink()
    assert cli("resume", tmp_path / "run").returncode == 0
    assert shown("run") == shown("whole")


def test_a_machine_error_is_a_search_error_for_python() -> None:
    import evomerge

    assert issubclass(evomerge.MachineError, evomerge.SearchError)
    assert evomerge.MachineError is MachineError


def test_a_fault_is_known_from_what_a_program_wrote_from_notes_and_in_any_case() -> None:
    ended = subprocess.CalledProcessError(1, "cp", stderr=b"cp: error: No space left on device\n")
    noted = ValueError("cannot write")
    noted.add_note("Input/output error")
    assert cure_for_machine(ended) == "Make room on the disk"
    assert cure_for_machine(noted) == "Check the disk, and what is mounted"
    assert cure_for_machine(RuntimeError("write x: no space left on device")) == (
        "Make room on the disk"
    )
    assert cure_for_machine(subprocess.CalledProcessError(1, "cp")) is None
