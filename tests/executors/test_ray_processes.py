"""Runs with a cluster of their own, stopped and killed: nothing stays, and nothing is lost."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "experiments" / "zoo"


class Run:
    """``evomerge run`` with two workers; all processes it starts carry a mark of its own."""

    def __init__(self, folder: Path, **executor: Any) -> None:
        self.folder = folder / "run"
        self.mark = f"EVOMERGE_TEST={uuid.uuid4()}"
        self.file = folder / "search.yaml"
        self.file.write_text(yaml.safe_dump(search(executor)))

    def start(self, *words: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from evomerge.cli import main; main()", *map(str, words)]
        name, value = self.mark.split("=")
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {name: value},
        )

    def begin(self) -> subprocess.Popen[str]:
        return self.start("run", self.file, "--run", self.folder)

    def resume(self) -> tuple[int, str]:
        process = self.start("resume", self.folder)
        _, talk = process.communicate(timeout=300)
        return process.returncode, talk

    def processes(self) -> list[Path]:
        """What lives of all that was ever started."""
        return [place for place in Path("/proc").glob("[0-9]*") if self._marked(place)]

    def _marked(self, place: Path) -> bool:
        try:
            return self.mark.encode() in (place / "environ").read_bytes()
        except OSError:
            return False

    def workers(self) -> list[int]:
        found = []
        for place in self.processes():
            try:
                name = (place / "cmdline").read_bytes()
            except OSError:
                continue
            if name.startswith(b"ray::EvomergeWorker"):
                found.append(int(place.name))
        return found

    def events(self) -> int:
        if not (self.folder / "run.sqlite").exists():
            return 0
        with sqlite3.connect(self.folder / "run.sqlite", timeout=30) as base:
            return int(base.execute("SELECT count(*) FROM events").fetchone()[0])

    def rows(self) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.folder / "run.sqlite") as base:
            rows: list[tuple[Any, ...]] = base.execute(
                "SELECT number, kind, genes, status, value, held_out_value FROM leaderboard"
            ).fetchall()
            told = base.execute(
                "SELECT count(*), count(DISTINCT candidate) FROM events WHERE kind = 'tell'"
            ).fetchone()
        assert told == (len(rows), len(rows))  # none lost, none twice
        return rows


def search(executor: dict[str, Any]) -> dict[str, Any]:
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
        "engine": {"name": "transformers", "threads": 1},
        "executor": executor,
        "budget": {"evaluations": 24},
    }


RAY = {"name": "ray", "address": "local", "workers": 2, "tell_order": "asked"}


def wait_for(met: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 120
    while not met():
        if process is not None and process.poll() is not None:
            pytest.fail(f"it ended: {process.communicate()[1]}")
        assert time.monotonic() < deadline
        time.sleep(0.02)


def left_behind() -> set[str]:
    """Shared memory and temporary files of Ray and of evomerge."""
    places = [*Path("/tmp").glob("evomerge-*"), *Path("/tmp").glob("ray/session_2*")]
    shared = [p for p in Path("/dev/shm").iterdir() if p.name.startswith(("plasma", "ray", "evo"))]
    return {str(place) for place in (*places, *shared)}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Any, ...]]]:
    """What one worker in one process finds."""
    alone = Run(tmp_path_factory.mktemp("alone"), name="local")
    process = alone.begin()
    assert process.wait(timeout=300) == 0, process.communicate()[1]
    yield alone.rows()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_every_process_and_says_how_to_resume(
    number: int, code: int, tmp_path: Path
) -> None:
    before = left_behind()
    run = Run(tmp_path, **RAY)
    process = run.begin()
    wait_for(lambda: run.events() > 3 and len(run.workers()) == 2, process)
    process.send_signal(number)
    _, talk = process.communicate(timeout=120)
    assert process.returncode == code, talk
    assert f"evomerge resume {run.folder}" in talk
    assert "Traceback" not in talk
    wait_for(lambda: not run.processes())
    assert left_behind() <= before


def test_a_killed_worker_and_a_killed_driver_lose_nothing(
    undisturbed: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    before = left_behind()
    run = Run(tmp_path, **RAY)
    process = run.begin()
    wait_for(lambda: run.events() > 3 and bool(run.workers()), process)
    os.kill(run.workers()[0], signal.SIGKILL)
    seen = run.events()
    wait_for(lambda: run.events() > seen + 6, process)
    process.kill()
    process.communicate()
    wait_for(lambda: not run.processes())
    code, talk = run.resume()
    assert code == 0, talk
    assert run.rows() == undisturbed
    wait_for(lambda: not run.processes())
    assert left_behind() <= before


def test_no_cluster_at_an_address_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path, **RAY | {"address": "127.0.0.1:1"})
    process = run.begin()
    _, talk = process.communicate(timeout=200)
    assert process.returncode == 2, talk
    assert "executor.address: 127.0.0.1:1: no Ray cluster answers there" in talk
    assert not run.folder.exists()
