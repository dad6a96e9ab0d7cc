"""Runs with a cluster of their own, stopped and killed: nothing stays, and nothing is lost."""

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
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "experiments" / "zoo"


PATIENCE_SECONDS = 300  # four interpreters import torch, and the machine may be busy


class Run:
    """``evomerge run`` with two workers; all processes it starts carry a mark of its own.

    They have a folder for temporary files of their own too, so that what is left there, in Ray's
    folder and in shared memory is not mistaken for that of others.
    """

    def __init__(self, folder: Path, engine: str = "transformers", **executor: Any) -> None:
        self.folder = folder / "run"
        self.mark = f"EVOMERGE_TEST={uuid.uuid4()}"
        self.file = folder / "search.yaml"
        self.file.write_text(yaml.safe_dump(search(engine, executor)))
        self.temporary = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))  # sockets: short paths
        self.started: list[subprocess.Popen[str]] = []
        self.shared_before = set(Path("/dev/shm").iterdir())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """A test that failed leaves nothing to the next one."""
        for place in self.processes():
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(int(place.name), signal.SIGKILL)
        for process in self.started:
            process.communicate()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def start(self, *words: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", "from evomerge.cli import main; main()", *map(str, words)]
        name, value = self.mark.split("=")
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {name: value, "TMPDIR": str(self.temporary)},
            start_new_session=True,  # so that Ctrl-C reaches its whole group, and not the tests
        )
        self.started.append(process)
        return process

    def begin(self, *words: str) -> subprocess.Popen[str]:
        return self.start("run", self.file, "--run", self.folder, *words)

    def resume(self, *words: str) -> tuple[int, str]:
        process = self.start("resume", self.folder, *words)
        _, talk = process.communicate(timeout=PATIENCE_SECONDS)
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

    def raylet(self) -> int:
        """Of the node that the run has started."""
        names = {place: (place / "cmdline").read_bytes() for place in self.processes()}
        (found,) = (p for p, n in names.items() if n.partition(b"\0")[0].endswith(b"/raylet"))
        return int(found.name)

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
        time.sleep(0.02)


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
    wait_for(lambda: not run.processes())
    assert run.left_behind() == set()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    """What one worker in one process finds."""
    with Run(tmp_path_factory.mktemp("alone"), name="local") as alone:
        process = alone.begin()
        _, talk = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, talk
        return alone.rows()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Run(tmp_path, **RAY) as made:
        yield made


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_every_process_and_says_how_to_resume(
    number: int, code: int, run: Run
) -> None:
    process = run.begin()
    wait_for(lambda: run.events() > 3 and bool(run.workers()), process)
    # a terminal sends Ctrl-C to all that run in it, Slurm and Kubernetes SIGTERM to the driver
    if number == signal.SIGTERM:
        process.terminate()
    else:
        while process.poll() is None:  # whoever waits presses again
            os.killpg(process.pid, number)
            time.sleep(0.3)
    _, talk = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == code, talk
    assert f"evomerge resume {run.folder}" in talk
    assert "Traceback" not in talk
    assert_nothing_is_left(run)


def test_a_killed_worker_and_a_killed_driver_lose_nothing(
    undisturbed: list[tuple[Any, ...]], run: Run
) -> None:
    process = run.begin()
    wait_for(lambda: run.events() > 3 and bool(run.workers()), process)
    os.kill(run.workers()[0], signal.SIGKILL)
    seen = run.events()
    wait_for(lambda: run.events() > seen + 6, process)
    process.kill()
    process.communicate()
    code, talk = run.resume()  # at once: what Ray left of the killed run may be ending still
    assert code == 0, talk
    assert run.rows() == undisturbed
    assert_nothing_is_left(run)


def test_a_killed_vllm_and_a_killed_driver_lose_nothing_and_fewer_workers_go_on(
    tmp_path: Path,
) -> None:
    pytest.importorskip("vllm")
    for name in ("alone", "crew"):
        (tmp_path / name).mkdir()
    with Run(tmp_path / "alone", "vllm", name="local") as alone:
        process = alone.begin()
        _, talk = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, talk
    with Run(tmp_path / "crew", "vllm", **RAY) as crew:
        process = crew.begin()
        wait_for(lambda: crew.events() > 3 and bool(crew.workers()), process)
        os.kill(crew.workers()[0], signal.SIGKILL)
        seen = crew.events()
        wait_for(lambda: crew.events() > seen + 6, process)
        process.kill()
        process.communicate()
        code, talk = crew.resume("--set", "budget.evaluations=4")
        assert code == 2
        assert "Only executor and its keys may be set" in talk
        code, talk = crew.resume("--set", "executor.workers=1")
        assert code == 0, talk
        assert crew.rows() == alone.rows()
        recipes = [(one.folder / "recipe.yaml").read_bytes() for one in (alone, crew)]
        assert recipes[0] == recipes[1]
        wait_for(lambda: not crew.processes())


def test_a_run_whose_only_node_has_died_ends_and_may_be_resumed(run: Run) -> None:
    process = run.begin("--set", "budget.evaluations=2000")  # Ray takes its time to notice
    wait_for(lambda: run.events() > 3 and bool(run.workers()), process)
    os.kill(run.raylet(), signal.SIGKILL)
    _, talk = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1, talk
    assert "Ray's node on" in talk
    assert "resume the run" in talk
    assert "Traceback" not in talk
    assert_nothing_is_left(run)


def test_a_run_that_ends_leaves_nothing(run: Run, undisturbed: list[tuple[Any, ...]]) -> None:
    process = run.begin()
    _, talk = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, talk
    assert run.rows() == undisturbed
    assert_nothing_is_left(run)


def test_no_cluster_at_an_address_is_refused(tmp_path: Path) -> None:
    with Run(tmp_path, **RAY | {"address": "127.0.0.1:1"}) as run:
        process = run.begin()
        _, talk = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 2, talk
        assert "executor.address: 127.0.0.1:1: no Ray cluster answers there" in talk
        assert not run.folder.exists()


IN_A_THREAD = """
from threading import Thread
from evomerge.executors._ray_cluster import Cluster

def visit():
    cluster = Cluster("local", {})
    cluster.join(1)
    print("joined")
    cluster.leave()

thread = Thread(target=visit)
thread.start()
thread.join()
"""


def test_a_cluster_is_joined_from_any_thread() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_THREAD],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.stdout == "joined\n", done.stderr
