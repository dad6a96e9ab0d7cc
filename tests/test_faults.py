"""Errors as machines make them, and as libraries wrap them, are known from mistakes of a scorer."""

from __future__ import annotations

import errno
import fcntl
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
from evomerge.faults import cure_for_machine, memory_ran_out
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


@pytest.mark.parametrize(
    "kind", [ValueError, AssertionError, KeyError, TypeError, ZeroDivisionError]
)
@pytest.mark.parametrize(
    "answer", ["os error 28", "[Errno 5] x", "Connection refused", "Cannot allocate memory"]
)
def test_a_models_answer_in_a_scorers_error_is_no_fault(kind: type[Exception], answer: str) -> None:
    error = kind(f"expected a number, got {answer!r}")
    assert cure_for_machine(error) is None
    assert not memory_ran_out(error)


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


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)),
        PermissionError(errno.EACCES, os.strerror(errno.EACCES)),
        IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)),
        BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)),
        TimeoutError("the model answers too slowly"),
        MemoryError(),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("Caught IndexError in DataLoader worker process 0."),
        ValueError("28 of 30"),
        subprocess.CalledProcessError(1, "grade"),
    ],
    ids=repr,
)
def test_what_a_scorer_may_do_wrong_itself_is_not_the_machines(error: Exception) -> None:
    assert cure_for_machine(error) is None


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


def _no_threads() -> None:
    try:
        raise RuntimeError("can't start new thread")
    except RuntimeError as error:
        raise ValueError("a pool was not made") from error


def _no_library() -> None:
    text = "libtorch_cpu.so: failed to map segment from shared object"
    raise ImportError(text)


def _too_large() -> None:
    torch.empty(1 << 60)


def _too_large_list() -> None:
    [0] * (1 << 60)


@pytest.mark.parametrize("fault", [_no_threads, _no_library, _too_large, _too_large_list])
def test_memory_that_ran_out_is_known_by_what_is_behind_an_error(
    fault: Callable[[], None],
) -> None:
    with pytest.raises(Exception) as caught:
        fault()
    assert memory_ran_out(caught.value)


@pytest.mark.parametrize("error", [ValueError("x"), OSError(errno.ENOSPC, "full"), KeyError(1)])
def test_what_is_no_lack_of_memory_is_none(error: Exception) -> None:
    assert not memory_ran_out(error)


LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_AS, ({mebibytes} << 20,) * 2)
from evomerge.cli import main
main()
"""
QUICKSTART = str(Path(__file__).parents[1] / "experiments" / "quickstart" / "search.yaml")


def limited(mebibytes: int, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIMITED.format(mebibytes=mebibytes), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "mebibytes", [300, *(pytest.param(n, marks=pytest.mark.slow) for n in (600, 1000, 1300))]
)
def test_a_command_whose_libraries_have_no_room_says_so_before_it_imports_them(
    mebibytes: int,
) -> None:
    done = limited(mebibytes, "check", QUICKSTART)
    assert done.returncode == 1, done.stderr
    assert "memory ran out, or no thread could be started: a command that imports torch " in (
        done.stderr
    )
    assert f"`ulimit -v` allows {(mebibytes << 20) / 1e9:.1f} GB. Give this process more" in (
        done.stderr
    )
    assert done.stderr.count("\n") == 1


def test_a_command_that_imports_no_large_library_runs_in_little_memory() -> None:
    done = limited(200, "list", "operators")
    assert done.returncode == 0, done.stderr
    assert "dare_ties" in done.stdout


def test_an_error_of_c_code_without_a_cause_is_a_lack_of_memory_where_that_is_limited() -> None:
    error = SystemError("error return without exception set")
    assert not memory_ran_out(error)
    with limit(resource.RLIMIT_AS, 1 << 50):
        assert memory_ran_out(error)


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
