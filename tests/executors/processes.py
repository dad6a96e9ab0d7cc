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
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

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
        self.variables = {name: value, "TMPDIR": str(self.temporary), **(variables or {})}
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
    """``evomerge run`` with two workers."""

    def __init__(
        self,
        folder: Path,
        engine: str = "transformers",
        *,
        variables: Mapping[str, str] | None = None,
        **executor: Any,
    ) -> None:
        super().__init__(variables)
        self.folder = folder / "run"
        self.file = folder / "search.yaml"
        self.file.write_text(yaml.safe_dump(search(engine, executor)))
        self.shared_before = set(Path("/dev/shm").iterdir())

    def begin(self, *words: str) -> subprocess.Popen[str]:
        return self.start(evomerge("run", self.file, "--run", self.folder, *words))

    def go_on(self, *words: str) -> subprocess.Popen[str]:
        return self.start(evomerge("resume", self.folder, *words))

    def resume(self, *words: str) -> tuple[int, str]:
        process = self.go_on(*words)
        _, talk = process.communicate(timeout=PATIENCE_SECONDS)
        return process.returncode, talk

    def left_behind(self) -> set[str]:
        """Temporary files, and shared memory that nobody has mapped, from here or any resume."""
        clusters = [
            folder
            for process in self.started
            for folder in Path("/tmp").glob(f"evomerge-ray-{process.pid}-*")
        ]
        shared = set(Path("/dev/shm").iterdir()) - self.shared_before
        unmapped = {place for place in shared if not mapped(place)}
        return {str(place) for place in (*self.temporary.iterdir(), *clusters, *unmapped)}

    def events(self) -> int:
        if not (self.folder / "run.sqlite").exists():
            return 0
        with closing(sqlite3.connect(self.folder / "run.sqlite", timeout=30)) as base:
            return int(base.execute("SELECT count(*) FROM events").fetchone()[0])

    def rows(self) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.folder / "run.sqlite")) as base:
            rows: list[tuple[Any, ...]] = base.execute(
                "SELECT number, kind, genes, status, value, held_out_value FROM leaderboard"
            ).fetchall()
            told = base.execute(
                "SELECT count(*), count(DISTINCT candidate) FROM events WHERE kind = 'tell'"
            ).fetchone()
        assert told == (len(rows), len(rows))  # none lost, none twice
        return rows


def evomerge(*words: object) -> list[str]:
    """The command line of this interpreter's evomerge."""
    return [sys.executable, "-c", "from evomerge.cli import main; main()", *map(str, words)]


def search(engine: str, executor: dict[str, Any]) -> dict[str, Any]:
    few = {"search_examples": 40, "held_out_examples": 8}
    return {
        "name": "small",
        "base": str(ZOO / "base"),
        "sources": {name: str(ZOO / name) for name in ("arithmetic", "strings")},
        "space": {
            "kind": "parameter",
            "operator": "task_arithmetic",
            "parameters": {"weight": {"low": 0, "high": 1.5}},
        },
        "fitness": {
            "include_path": str(ROOT / "fitness" / "zoo_skills"),
            "tasks": {name: {"task": f"zoo_{name}", **few} for name in ("arithmetic", "strings")},
        },
        "optimizer": {"name": "cmaes", "population_size": 4},
        "engine": {"name": engine} | ({} if engine == "vllm" else {"threads": 1}),
        "executor": executor,
        "budget": {"evaluations": 24},
    }


RAY: dict[str, Any] = {"name": "ray", "address": "local", "workers": 2, "tell_order": "asked"}


def wait_for(met: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not met():
        if process is not None and process.poll() is not None:
            pytest.fail(f"it ended: {process.communicate()[1]}")
        assert time.monotonic() < deadline
        time.sleep(0.1)


def mapped(place: Path) -> bool:
    """Whether any process, ours or of somebody else, has a file in its memory."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            if f" {place}\n" in maps.read_text():
                return True
        except OSError:
            continue  # it ended meanwhile
    return False


def assert_nothing_is_left(run: Run) -> None:
    """Ray's own processes take a moment to follow their driver."""
    wait_for(lambda: not run.living())
    assert run.left_behind() == set()
