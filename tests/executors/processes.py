"""Searches in processes of their own, which tests stop and kill, and what is left of them."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Self

import pytest
import small
import yaml

from evomerge.store import Store

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "experiments" / "zoo"

PATIENCE_SECONDS = 300  # four interpreters import torch, and the machine may be busy


class Processes:
    """Processes that a test starts, and all that these start: they carry a mark of their own.

    They have a folder for temporary files of their own too, so that what is left there, in Ray's
    folder and in shared memory is not mistaken for that of others.
    """

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        name, value = "EVOMERGE_TEST", str(uuid.uuid4())
        self.mark = f"{name}={value}"
        self.temporary = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))  # sockets: short paths
        # the mark comes last: Ray writes the names of its processes over the first ones
        self.variables = {"TMPDIR": str(self.temporary), **(variables or {}), name: value}
        self.started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """A test that failed leaves nothing to the next one."""
        for number in self.living():
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(number, signal.SIGKILL)
        for process in self.started:
            process.communicate()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | self.variables,
            start_new_session=True,  # so that Ctrl-C reaches its whole group, and not the tests
        )
        self.started.append(process)
        return process

    def living(self) -> dict[int, bytes]:
        """What lives of all that was ever started, and by which command line."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it ended meanwhile, or is another user's
                if self.mark.encode() in (place / "environ").read_bytes():
                    found[int(place.name)] = (place / "cmdline").read_bytes()
        return found

    def workers(self) -> list[int]:
        return [n for n, line in self.living().items() if line.startswith(b"ray::EvomergeWorker")]


class Run(Processes):
    """``evomerge run`` with two workers, of small models unless the engine is another.

    Attributes:
        shared: files in shared memory that its processes, or those of a cluster, had mapped.
    """

    def __init__(
        self,
        folder: Path,
        engine: str = "torch",
        *,
        variables: Mapping[str, str] | None = None,
        **executor: Any,
    ) -> None:
        super().__init__(variables)
        self.folder = folder / "run"
        self.file = folder / "search.yaml"
        self.file.write_text(yaml.safe_dump(search(folder, engine, executor)))
        self.pace = folder / "pace"
        self.shared: set[Path] = set()

    def begin(self, *words: str) -> subprocess.Popen[str]:
        return self.start(evomerge("run", self.file, "--run", self.folder, *words))

    def begin_slowly(self, *words: str) -> subprocess.Popen[str]:
        """Begin; until `hurry` candidates take so long that none of much happens is the last."""
        self.pace.touch()
        return self.begin(*words)

    def hurry(self) -> None:
        self.pace.unlink()

    def go_on(self, *words: str) -> subprocess.Popen[str]:
        return self.start(evomerge("resume", self.folder, *words))

    def resume(self, *words: str) -> tuple[int, str]:
        process = self.go_on(*words)
        _, talk = process.communicate(timeout=PATIENCE_SECONDS)
        return process.returncode, talk

    def note_shared(self) -> None:
        """Note the shared memory of all that lives now, to look for it when nothing does."""
        for number in self.living():
            with suppress(OSError):  # it ended meanwhile
                lines = Path(f"/proc/{number}/maps").read_text().splitlines()
                self.shared |= {
                    Path(line[line.index("/dev/shm/") :]) for line in lines if "/dev/shm/" in line
                }

    def cluster_folders(self) -> list[Path]:
        """The folders of the clusters that it or any resume has started."""
        return [
            folder
            for process in self.started
            for folder in Path("/tmp").glob(f"evomerge-ray-{process.pid}-*")
        ]

    def left_behind(self) -> set[str]:
        """Temporary files, and shared memory, from here or any resume."""
        shared = [place for place in self.shared if place.exists()]
        found = (*self.temporary.iterdir(), *self.cluster_folders(), *shared)
        return {str(place) for place in found}

    def listening(self) -> set[IPv4Address | IPv6Address]:
        """The addresses at which its processes wait for connections."""
        sockets: set[str] = set()
        for number in self.living():
            with suppress(OSError):  # it ended meanwhile
                sockets |= {str(file.readlink()) for file in Path(f"/proc/{number}/fd").iterdir()}
        tables = [Path(f"/proc/net/{name}").read_text() for name in ("tcp", "tcp6")]
        rows = [line.split() for table in tables for line in table.splitlines()[1:]]
        return {
            address(row[1].partition(":")[0])
            for row in rows
            if row[3] == "0A" and f"socket:[{row[9]}]" in sockets
        }

    def events(self) -> int:
        if not Store.exists(self.folder):
            return 0
        with closing(sqlite3.connect(Store.path(self.folder), timeout=30)) as base:
            return int(base.execute("SELECT count(*) FROM events").fetchone()[0])

    def rows(self) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(Store.path(self.folder))) as base:
            rows: list[tuple[Any, ...]] = base.execute(
                "SELECT number, kind, genes, status, value, held_out_value FROM leaderboard"
            ).fetchall()
            reported = base.execute(
                "SELECT count(*), count(DISTINCT candidate) FROM events WHERE kind = 'tell'"
            ).fetchone()
        assert reported == (len(rows), len(rows))  # none lost, none twice
        return rows


def address(digits: str) -> IPv4Address | IPv6Address:
    """The address that Linux writes as words of 32 bits in the order of this machine."""
    words = [int(digits[start : start + 8], 16) for start in range(0, len(digits), 8)]
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    if len(packed) == 4:
        return IPv4Address(packed)
    return IPv6Address(packed).ipv4_mapped or IPv6Address(packed)


def evomerge(*words: object) -> list[str]:
    """The command line of this interpreter's evomerge."""
    return [sys.executable, "-c", "from evomerge.cli import main; main()", *map(str, words)]


def search(folder: Path, engine: str, executor: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "small",
        **(small_models(folder) if engine == "torch" else zoo(engine)),
        "space": {
            "kind": "parameter",
            "operator": "task_arithmetic",
            "parameters": {"weight": {"low": 0, "high": 1.5}},
        },
        "optimizer": {"name": "cmaes", "population_size": 4},
        "executor": executor,
        "budget": {"evaluations": 24},
    }


def small_models(folder: Path) -> dict[str, Any]:
    sources = small.write(folder / "models")
    options = {"pace": str(folder / "pace")}
    return {
        "base": sources.pop("base"),
        "sources": sources,
        "fitness": {"tasks": {"nearness": {"scorer": small.SCORER, "options": options}}},
        "engine": {"name": "torch", "module": small.MODULE, "threads": 1},
    }


def zoo(engine: str) -> dict[str, Any]:
    few = {"search_examples": 40, "held_out_examples": 8}
    names = ("arithmetic", "strings")
    return {
        "base": str(ZOO / "base"),
        "sources": {name: str(ZOO / name) for name in names},
        "fitness": {
            "include_path": str(ROOT / "fitness" / "zoo_skills"),
            "tasks": {name: {"task": f"zoo_{name}", **few} for name in names},
        },
        "engine": {"name": engine},
    }


RAY: dict[str, Any] = {"name": "ray", "address": "local", "workers": 2, "tell_order": "asked"}


def wait_for(met: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not met():
        if process is not None and process.poll() is not None:
            pytest.fail(f"it ended: {process.communicate()[1]}")
        assert time.monotonic() < deadline
        time.sleep(0.1)


def assert_nothing_is_left(run: Run) -> None:
    """Ray's own processes take a moment to follow their driver."""
    wait_for(lambda: not run.living())
    assert run.left_behind() == set()
