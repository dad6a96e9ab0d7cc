"""Runs with a cluster of their own, stopped and killed: nothing stays, and nothing is lost."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE_SECONDS, RAY, ROOT, Run, assert_nothing_is_left, wait_for

# multiple choice: 32 examples, of which every candidate is asked four
CHOICE = f"{{include_path: {ROOT}/tests/scoring/tasks, tasks: {{x: {{task: choice}}}}}}"
RACE = ("--set", "racing.first=4", "--set", f"fitness={CHOICE}")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Run(tmp_path, **RAY) as made:
        yield made


def test_a_run_on_a_cluster_of_its_own_finds_what_one_worker_finds_and_leaves_nothing(
    undisturbed: list[tuple[Any, ...]], run: Run
) -> None:
    process = run.begin_slowly()
    wait_for(lambda: run.events() > 3 and bool(run.workers()), process)
    run.note_shared()
    assert {place.is_loopback for place in run.listening()} == {True}
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in run.cluster_folders()} == {0o700}
    run.hurry()
    _, talk = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, talk
    assert run.rows() == undisturbed
    assert_nothing_is_left(run)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_every_process_and_says_how_to_resume(
    number: int, code: int, run: Run
) -> None:
    process = run.begin_slowly()
    wait_for(lambda: run.events() > 3 and bool(run.workers()), process)
    run.note_shared()
    # a terminal sends Ctrl-C to all that run in it, Slurm and Kubernetes SIGTERM to the driver
    if number == signal.SIGTERM:
        process.terminate()
    else:
        patience = time.monotonic() + 10
        while process.poll() is None and time.monotonic() < patience:  # who waits presses again
            os.killpg(process.pid, number)
            time.sleep(0.3)
    _, talk = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == code, talk
    assert f"evomerge resume {run.folder}" in talk
    assert "Traceback" not in talk
    assert_nothing_is_left(run)


@pytest.mark.slow
def test_a_killed_worker_and_a_killed_driver_lose_nothing(
    undisturbed: list[tuple[Any, ...]], run: Run
) -> None:
    process = run.begin_slowly()
    wait_for(lambda: run.events() > 3 and bool(run.workers()), process)
    os.kill(run.workers()[0], signal.SIGKILL)
    seen = run.events()
    wait_for(lambda: run.events() > seen + 6, process)
    run.note_shared()
    process.kill()
    process.communicate()
    run.hurry()
    code, talk = run.resume()  # at once: what Ray left of the killed run may be ending still
    assert code == 0, talk
    assert run.rows() == undisturbed
    assert_nothing_is_left(run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "keys"),
    [("vllm", ()), ("transformers", RACE)],
    ids=["vllm", "a race of log-likelihoods"],
)
def test_a_killed_engine_and_a_killed_driver_change_no_recipe_and_fewer_workers_go_on(
    engine: str, keys: Sequence[str], tmp_path: Path
) -> None:
    if engine == "vllm":
        pytest.importorskip("vllm")
    for name in ("alone", "pool"):
        (tmp_path / name).mkdir()
    with Run(tmp_path / "alone", engine, name="local") as alone:
        process = alone.begin(*keys)
        _, talk = process.communicate(timeout=PATIENCE_SECONDS)
        assert process.returncode == 0, talk
    with Run(tmp_path / "pool", engine, **RAY) as pool:
        process = pool.begin(*keys)
        wait_for(lambda: pool.events() > 3 and bool(pool.workers()), process)
        os.kill(pool.workers()[0], signal.SIGKILL)
        seen = pool.events()
        wait_for(lambda: pool.events() > seen + 6, process)
        process.kill()
        process.communicate()
        code, talk = pool.resume("--set", "budget.evaluations=4")
        assert code == 2
        assert "Only executor and its keys may be set" in talk
        code, talk = pool.resume("--set", "executor.workers=1")
        assert code == 0, talk
        assert pool.rows() == alone.rows()
        recipes = [(one.folder / "recipe.yaml").read_bytes() for one in (alone, pool)]
        assert recipes[0] == recipes[1]
        wait_for(lambda: not pool.living())


@pytest.mark.slow
def test_a_run_whose_only_node_has_died_ends_and_may_be_resumed(run: Run) -> None:
    run.variables["RAY_health_check_period_ms"] = "500"  # and not 3000
    process = run.begin_slowly("--set", "budget.evaluations=2000")  # Ray takes its time to notice
    wait_for(lambda: run.events() > 3 and bool(run.workers()), process)
    run.note_shared()
    (raylet,) = (n for n, line in run.living().items() if b"/raylet\0" in line)
    os.kill(raylet, signal.SIGKILL)
    _, talk = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1, talk
    assert "Ray's node on" in talk
    assert "resume the run" in talk
    assert "Traceback" not in talk
    assert_nothing_is_left(run)


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_cluster_is_joined_from_any_thread() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_A_THREAD],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.stdout == "joined\n", done.stderr
