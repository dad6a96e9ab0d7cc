"""Whole searches on the real zoo: what they record, how they end, how they resume."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ZOO = Path(__file__).parents[1] / "experiments" / "zoo"
FITNESS = Path(__file__).parents[1] / "fitness" / "zoo_skills"

Content = dict[str, Any]


def small_search(**changes: Any) -> Content:
    """A search of a dozen candidates on eight examples of two tasks."""
    few = {"search_examples": 8, "held_out_examples": 8}
    content: Content = {
        "name": "small",
        "base": str(ZOO / "base"),
        "sources": {name: str(ZOO / name) for name in ("arithmetic", "strings")},
        "space": {
            "kind": "parameter",
            "operator": "task_arithmetic",
            "parameters": {"weight": {"low": 0, "high": 1.5}},
        },
        "fitness": {
            "include_path": str(FITNESS),
            "tasks": {
                "arithmetic": {"task": "zoo_arithmetic", **few},
                "strings": {"task": "zoo_strings", **few},
            },
        },
        "optimizer": {"name": "cmaes", "population_size": 4},
        "engine": {"name": "transformers", "threads": 1},
        "budget": {"evaluations": 12},
        "seed": 3,
    }
    return content | changes


def write(folder: Path, content: Content) -> Path:
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def evomerge(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from evomerge.cli import main; main()", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def start(*words: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from evomerge.cli import main; main()", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def events(folder: Path) -> int:
    """How many events the run has recorded so far."""
    if not (folder / "run.sqlite").exists():
        return 0
    # not read-only: after a kill the reader opens the log that was left
    with sqlite3.connect(folder / "run.sqlite", timeout=30) as base:
        return int(base.execute("SELECT count(*) FROM events").fetchone()[0])


def wait_until(met: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not met() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def result(folder: Path) -> Content:
    """The run as ``show --json`` tells it, without what depends on the clock."""
    shown = evomerge("show", folder, "--json")
    assert shown.returncode == 0, shown.stderr
    content: Content = json.loads(shown.stdout)
    del content["run"], content["usage"]
    return content


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("finished")
    done = evomerge("run", write(folder, small_search()), "--run", folder / "run")
    assert done.returncode == 0, done.stderr
    yield folder / "run"


def test_a_run_records_its_budget_and_every_baseline(finished: Path) -> None:
    content = result(finished)
    assert [row["label"] for row in content["baselines"]] == [
        "base",
        "source: arithmetic",
        "source: strings",
        "uniform average",
        "textbook task_arithmetic",
    ]
    kinds = [row["kind"] for row in content["candidates"]]
    assert kinds == ["search"] * 12 + ["mean"]
    assert all(row["status"] == "done" for row in content["candidates"])
    assert len({row["digest"] for row in content["candidates"]}) > 10


def test_the_best_candidate_has_the_highest_value_and_a_held_out_score(finished: Path) -> None:
    content = result(finished)
    best = content["best"]
    assert best["value"] == max(row["value"] for row in content["candidates"])
    assert 0 <= best["held_out"] <= 1
    assert all(row["held_out"] is not None for row in content["baselines"])


def test_the_run_folder_holds_the_best_recipe(finished: Path) -> None:
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text())
    assert recipe["operator"] == "task_arithmetic"
    assert result(finished)["best"]["digest"] in (finished / "recipe.yaml").read_text()


def test_another_run_in_the_same_folder_is_refused(finished: Path) -> None:
    again = evomerge("run", write(finished.parent, small_search()), "--run", finished)
    assert again.returncode == 2
    assert f"evomerge resume {finished}" in again.stderr


def test_resuming_a_finished_run_changes_nothing(finished: Path) -> None:
    before = (finished / "run.sqlite").read_bytes()
    assert evomerge("resume", finished).returncode == 0
    assert (finished / "run.sqlite").read_bytes() == before


def test_a_run_killed_at_random_moments_ends_as_if_it_never_was(
    finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    search = write(tmp_path, small_search())
    moments = random.Random(0)
    kills = 0
    for wanted in (1, moments.randrange(6, 14), moments.randrange(16, 24), 30):
        words = ("resume", folder) if events(folder) else ("run", search, "--run", folder)
        process = start(*words)
        wait_until(lambda wanted=wanted: events(folder) >= wanted, process)  # type: ignore[misc]
        time.sleep(moments.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 3
    last = evomerge("resume", folder)
    assert last.returncode == 0, last.stderr
    assert result(folder) == result(finished)
    with sqlite3.connect(folder / "run.sqlite") as base:
        told = base.execute(
            "SELECT count(*), count(DISTINCT candidate) FROM events WHERE kind='tell'"
        )
        assert told.fetchone() == (18, 18)  # none lost, none twice


def test_ctrl_c_stops_cleanly_and_says_how_to_resume(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start("run", write(tmp_path, small_search()), "--run", folder)
    wait_until(lambda: events(folder) >= 2, process)  # long before the end, on a busy machine too
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"evomerge resume {folder}" in talk
    assert "Traceback" not in talk
    assert evomerge("resume", folder).returncode == 0
    assert result(folder) == result(finished)


def test_a_second_process_on_a_run_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start("run", write(tmp_path, small_search()), "--run", folder)
    try:
        wait_until(lambda: events(folder) >= 2, process)
        process.send_signal(signal.SIGSTOP)
        second = evomerge("resume", folder)
        assert second.returncode == 2
        assert f"in use by process {process.pid}" in second.stderr
        assert evomerge("show", folder, "--json").returncode == 0  # readers are welcome
    finally:
        process.kill()
        process.communicate()


def test_a_failed_candidate_is_recorded_and_the_search_goes_on(tmp_path: Path) -> None:
    space = {
        "kind": "parameter",
        "operator": "task_arithmetic",
        # beyond 3e38 a weight is infinite: such candidates cannot be built
        "parameters": {"lam": {"low": 1e-2, "high": 1e60, "scale": "log", "initial": 1}},
    }
    optimizer = {"name": "random"}
    search = small_search(space=space, optimizer=optimizer, stop_after_failures=12)
    done = evomerge("run", write(tmp_path, search), "--run", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    rows = result(tmp_path / "run")["candidates"]
    failed = [row for row in rows if row["status"] == "failed"]
    assert 0 < len(failed) < len(rows)
    assert all("cannot hold" in row["error"] and row["value"] is None for row in failed)
    assert "failed: CandidateError" in evomerge("show", tmp_path / "run").stdout


def test_a_search_whose_first_candidates_all_fail_stops_and_says_why(tmp_path: Path) -> None:
    space = {
        "kind": "parameter",
        "operator": "task_arithmetic",
        "parameters": {"lam": {"low": 1e50, "high": 1e60}},
    }
    search = small_search(space=space, stop_after_failures=3, optimizer={"name": "random"})
    done = evomerge("run", write(tmp_path, search), "--run", tmp_path / "run")
    assert done.returncode == 1
    assert "the first 3 candidates all failed" in done.stderr
    assert "cannot hold" in done.stderr


@pytest.mark.parametrize("optimizer", [{"name": "random"}, {"name": "optuna"}])
def test_other_optimizers_run_too(optimizer: Content, tmp_path: Path) -> None:
    search = small_search(optimizer=optimizer, budget={"evaluations": 3})
    done = evomerge("run", write(tmp_path, search), "--run", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert len(result(tmp_path / "run")["candidates"]) == 3


def test_a_time_budget_ends_a_run_and_survives_a_resume(tmp_path: Path) -> None:
    search = small_search(budget={"seconds": 0.2})
    done = evomerge("run", write(tmp_path, search), "--run", tmp_path / "run")
    # the baselines alone may use the time up: then there is nothing to choose from
    assert done.returncode in (0, 1), done.stderr
    before = len(json.loads(evomerge("show", tmp_path / "run", "--json").stdout)["candidates"])
    evomerge("resume", tmp_path / "run")
    after = len(json.loads(evomerge("show", tmp_path / "run", "--json").stdout)["candidates"])
    assert after == before


def test_normalized_values_are_relative_to_the_best_source(tmp_path: Path) -> None:
    search = small_search(budget={"evaluations": 2})
    search["fitness"]["normalize"] = "best_source"
    done = evomerge("run", write(tmp_path, search), "--run", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    content = result(tmp_path / "run")
    sources = [row for row in content["baselines"] if row["label"].startswith("source")]
    for split, value in (("tasks", "value"), ("held_out_tasks", "held_out")):
        best = {task: max(row[split][task] for row in sources) for task in sources[0][split]}
        for row in [*content["baselines"], content["best"]]:
            expected = sum(row[split][task] / (best[task] or 1) for task in best) / len(best)
            assert row[value] == pytest.approx(expected)
    with sqlite3.connect(tmp_path / "run" / "run.sqlite") as base:
        stored = dict(
            base.execute(
                "SELECT number, value FROM candidates JOIN evaluations USING (recipe_digest) "
                "WHERE split = 'search'"
            ).fetchall()
        )
    # never a value that is relative to something else than what is shown
    shown = {row["number"]: row["value"] for row in content["candidates"] + content["baselines"]}
    assert all(value is None or value == shown[number] for number, value in stored.items())
    assert all(stored[row["number"]] is not None for row in content["candidates"])


def test_a_run_is_shown_after_its_models_are_gone(tmp_path: Path) -> None:
    copy = tmp_path / "arithmetic"
    shutil.copytree(ZOO / "arithmetic", copy)
    search = small_search(budget={"evaluations": 2})
    search["sources"]["arithmetic"] = str(copy)
    assert evomerge("run", write(tmp_path, search), "--run", tmp_path / "run").returncode == 0
    shutil.rmtree(copy)
    assert len(result(tmp_path / "run")["candidates"]) == 2
    assert evomerge("export", tmp_path / "run").returncode == 0
    assert evomerge("resume", tmp_path / "run").returncode == 2


def test_a_source_that_changed_since_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "arithmetic"
    shutil.copytree(ZOO / "arithmetic", copy)
    search = small_search(budget={"evaluations": 2})
    search["sources"]["arithmetic"] = str(copy)
    assert evomerge("run", write(tmp_path, search), "--run", tmp_path / "run").returncode == 0
    shutil.copy(ZOO / "strings" / "model.safetensors", copy / "model.safetensors")
    again = evomerge("resume", tmp_path / "run")
    assert again.returncode == 2
    assert "changed since the run began: the weights of its models" in again.stderr


def test_nothing_is_left_behind_in_shared_places(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} <= {
        "run.sqlite",
        "run.lock",
        "run.lock.json",
        "recipe.yaml",
    }
