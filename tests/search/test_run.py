"""Whole searches on the real zoo: what they record, how they end, how they resume."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from evomerge.search import budget as clock_of_runs
from evomerge.store import Store

ZOO = Path(__file__).parents[2] / "experiments" / "zoo"
FITNESS = Path(__file__).parents[2] / "fitness" / "zoo_skills"

Content = dict[str, Any]
Cli = Callable[..., Any]
Result = Callable[[Path], Content]


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


COMMAND = "from evomerge.cli import main; main()"
STOPPING = f"""
import os, signal, sys
from sqlalchemy import Engine, event

left = int(sys.argv.pop(1))

def execute(cursor, statement, parameters, context):
    global left
    left -= statement.startswith("INSERT INTO events")
    if left == 0:
        left = -1
        os.kill(os.getpid(), signal.SIGSTOP)

event.listen(Engine, "do_execute", execute)
{COMMAND}
"""


class Stopped:
    """A process of a command that has stopped itself where it would record an event of a run.

    Args:
        event: the number of that one, counted from the beginning of this process.
        words: the command.
    """

    def __init__(self, event: int, *words: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", STOPPING, str(event), *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        status, deadline = 0, time.monotonic() + 300
        while not status and time.monotonic() < deadline:
            time.sleep(0.02)
            _, status = os.waitpid(self.process.pid, os.WUNTRACED | os.WNOHANG)
        if not os.WIFSTOPPED(status):
            _, talk = self.end(signal.SIGKILL)
            raise AssertionError(f"it did not come to event {event}: {talk}")

    def end(self, *signals: signal.Signals) -> tuple[int, str]:
        """Its exit code and all that it said, once it has got these signals, one after another."""
        for one in signals:
            self.process.send_signal(one)
        _, talk = self.process.communicate(timeout=300)
        return self.process.returncode, talk


@pytest.fixture(scope="module")
def result(cli: Cli) -> Result:
    """Reads a run as ``show --json`` tells it, without what depends on the clock."""

    def read(folder: Path) -> Content:
        shown = cli("show", folder, "--json")
        assert shown.returncode == 0, shown.stderr
        content: Content = json.loads(shown.stdout)
        del content["run"], content["usage"]
        return content

    return read


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed, by the command in a process of its own."""
    folder = tmp_path_factory.mktemp("finished")
    words = ("run", write(folder, small_search()), "--run", folder / "run")
    command = [sys.executable, "-c", COMMAND, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "small: finished, 13 candidates (13 done, 0 failed)" in done.stdout
    assert "best recipe" in done.stdout
    return folder / "run"


def test_a_run_records_its_budget_and_every_baseline(result: Result, finished: Path) -> None:
    content = result(finished)
    assert [row["label"] for row in content["baselines"]] == [
        "base",
        "source: arithmetic",
        "source: strings",
        "uniform average",
        "task_arithmetic, paper's defaults",
    ]
    kinds = [row["kind"] for row in content["candidates"]]
    assert kinds == ["search"] * 12 + ["mean"]
    assert all(row["status"] == "done" for row in content["candidates"])
    assert len({row["digest"] for row in content["candidates"]}) > 10


def test_the_best_candidate_has_the_highest_value_and_a_held_out_score(
    result: Result, finished: Path
) -> None:
    content = result(finished)
    best = content["best"]
    assert best["value"] == max(row["value"] for row in content["candidates"])
    assert 0 <= best["held_out"] <= 1
    assert all(row["held_out"] is not None for row in content["baselines"])


def test_the_run_folder_holds_the_best_recipe(result: Result, finished: Path) -> None:
    recipe = yaml.safe_load((finished / "recipe.yaml").read_text())
    assert recipe["operator"] == "task_arithmetic"
    assert result(finished)["best"]["digest"] in (finished / "recipe.yaml").read_text()


def test_another_run_in_the_same_folder_is_refused(
    cli: Cli, finished: Path, tmp_path: Path
) -> None:
    again = cli("run", write(tmp_path, small_search()), "--run", finished)
    assert again.returncode == 2
    assert f"evomerge resume {finished}" in again.stderr


def test_resuming_a_finished_run_changes_nothing(cli: Cli, finished: Path) -> None:
    before = Store.path(finished).read_bytes()
    assert cli("resume", finished).returncode == 0
    assert Store.path(finished).read_bytes() == before


def tells(folder: Path) -> tuple[int, int]:
    """How many results were reported, and of how many candidates."""
    with sqlite3.connect(Store.path(folder), timeout=60) as base:
        found: tuple[int, int] = base.execute(
            "SELECT count(*), count(DISTINCT candidate) FROM events WHERE kind='tell'"
        ).fetchone()
    return found


def test_a_run_that_was_killed_ends_as_if_it_never_was(
    cli: Cli, result: Result, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    running = Stopped(19, "run", write(tmp_path, small_search()), "--run", folder)
    code, _ = running.end(signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert 5 < tells(folder)[0] < 18
    assert cli("resume", folder).returncode == 0
    assert result(folder) == result(finished)
    assert tells(folder) == (18, 18)  # none lost, none twice


@pytest.mark.slow
@pytest.mark.parametrize("what", ["rm run.sqlite", "rm -r"])
def test_a_run_whose_files_are_taken_away_stops_and_ends_as_if_they_never_were(
    what: str, cli: Cli, result: Result, finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    running = Stopped(19, "run", write(tmp_path, small_search()), "--run", folder)
    if what == "rm -r":
        shutil.rmtree(folder)
    else:
        Store.path(folder).unlink()
    code, talk = running.end(signal.SIGCONT)
    assert code == 1, talk
    assert f"written anew. Go on with: evomerge resume {folder}" in " ".join(talk.split())
    assert 5 < tells(folder)[0] < 18
    assert cli("resume", folder).returncode == 0
    assert result(folder) == result(finished)
    assert tells(folder) == (18, 18)


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_if_it_never_was(
    cli: Cli, result: Result, finished: Path, tmp_path: Path
) -> None:
    folder, moments = tmp_path / "run", random.Random(0)
    events = (1, moments.randrange(6, 14), moments.randrange(16, 20), 24)  # of 36
    steps = [f"{event}+{0.001 + moments.random() * 0.05}" for event in events]
    words = [sys.executable, str(Path(__file__).parent / "die_at.py"), str(folder), *steps]
    text = yaml.safe_dump(small_search())
    done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=600)
    codes = [int(line.split()[0]) for line in done.stdout.splitlines()]
    assert codes == [-signal.SIGPROF] * 4, done.stderr
    assert cli("resume", folder).returncode == 0
    assert result(folder) == result(finished)
    assert tells(folder) == (18, 18)


def among(layers: Content, **changes: Any) -> Content:
    """The small search among single layers, where what is merged does not matter."""
    two = {name: layers["sources"][name] for name in ("a", "b")}
    return small_search(**{**layers, "sources": two, **changes})


class Interrupted(NamedTuple):
    """What happened to a run while it was at work, and how it ended."""

    folder: Path
    number: int  # of its process
    second: Any  # what became of another process on it
    shown: Any  # and of one that reads
    code: int
    talk: str


@pytest.fixture(scope="module")
def interrupted(cli: Cli, layers: Content, tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    """A run that others came upon and that Ctrl-C then ended."""
    folder = tmp_path_factory.mktemp("interrupted")
    run = folder / "run"
    running = Stopped(4, "run", write(folder, among(layers)), "--run", run)
    try:
        second, shown = cli("resume", run), cli("show", run, "--json")
        code, talk = running.end(signal.SIGINT, signal.SIGCONT)
    finally:
        running.process.kill()
        running.process.wait()
    return Interrupted(run, running.process.pid, second, shown, code, talk)


def test_ctrl_c_stops_cleanly_and_says_how_to_resume(
    cli: Cli, result: Result, layers: Content, interrupted: Interrupted, tmp_path: Path
) -> None:
    assert interrupted.code == 130
    assert f"evomerge resume {interrupted.folder}" in interrupted.talk
    assert "Traceback" not in interrupted.talk
    folder, whole = tmp_path / "run", tmp_path / "whole"
    shutil.copytree(interrupted.folder, folder)
    assert cli("resume", folder).returncode == 0
    assert cli("run", write(tmp_path, among(layers)), "--run", whole).returncode == 0
    assert result(folder) == result(whole)


def test_a_second_process_on_a_run_is_refused(interrupted: Interrupted) -> None:
    assert interrupted.second.returncode == 2
    assert f"in use by process {interrupted.number}" in interrupted.second.stderr
    assert interrupted.shown.returncode == 0  # readers are welcome


def test_a_failed_candidate_is_recorded_and_the_search_goes_on(
    cli: Cli, result: Result, tmp_path: Path
) -> None:
    space = {
        "kind": "parameter",
        "operator": "task_arithmetic",
        # beyond 65,504 a weight is infinite: such candidates cannot be built
        "parameters": {"lam": {"low": 1e-2, "high": 1e30, "scale": "log", "initial": 1}},
    }
    search = small_search(
        space=space, optimizer={"name": "random"}, stop_after_failures=12, dtype="float16"
    )
    done = cli("run", write(tmp_path, search), "--run", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    rows = result(tmp_path / "run")["candidates"]
    failed = [row for row in rows if row["status"] == "failed"]
    assert 0 < len(failed) < len(rows)
    assert all("cannot hold" in row["error"] and row["value"] is None for row in failed)
    assert "failed: CandidateError" in cli("show", tmp_path / "run").stdout


def test_a_search_whose_first_candidates_all_fail_stops_and_says_why(
    cli: Cli, tmp_path: Path
) -> None:
    space = {
        "kind": "parameter",
        "operator": "task_arithmetic",
        "parameters": {"lam": {"low": 1e20, "high": 1e30}},
    }
    search = small_search(
        space=space, stop_after_failures=3, optimizer={"name": "random"}, dtype="float16"
    )
    done = cli("run", write(tmp_path, search), "--run", tmp_path / "run")
    assert done.returncode == 1
    assert "the first 3 candidates all failed" in done.stderr
    assert "cannot hold" in done.stderr


@pytest.mark.parametrize("optimizer", [{"name": "random"}, {"name": "optuna"}])
def test_other_optimizers_run_too(
    cli: Cli, result: Result, layers: Content, optimizer: Content, tmp_path: Path
) -> None:
    search = among(layers, optimizer=optimizer, budget={"evaluations": 3})
    done = cli("run", write(tmp_path, search), "--run", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert len(result(tmp_path / "run")["candidates"]) == 3


class Clock:
    """Goes on by a second each time that it is read."""

    now = 1e6

    def monotonic(self) -> float:
        self.now += 1
        return self.now


@pytest.mark.parametrize(
    ("seconds", "code"),
    [(40, 0), (10, 1)],  # the baselines alone use it up: then there is nothing to choose from
)
def test_a_time_budget_ends_a_run_and_survives_a_resume(
    cli: Cli,
    result: Result,
    layers: Content,
    seconds: float,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clock_of_runs, "time", Clock())
    folder = tmp_path / "run"
    search = among(layers, budget={"seconds": seconds})
    done = cli("run", write(tmp_path, search), "--run", folder)
    assert done.returncode == code, done.stderr
    before = len(result(folder)["candidates"])
    assert (before > 0) == (code == 0)
    assert cli("resume", folder).returncode == code
    assert len(result(folder)["candidates"]) == before


def test_normalized_values_are_relative_to_the_best_source(
    cli: Cli, result: Result, tmp_path: Path
) -> None:
    search = small_search(budget={"evaluations": 2})
    search["fitness"]["normalize"] = "best_source"
    done = cli("run", write(tmp_path, search), "--run", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    content = result(tmp_path / "run")
    sources = [row for row in content["baselines"] if row["label"].startswith("source")]
    for split, value in (("tasks", "value"), ("held_out_tasks", "held_out")):
        best = {task: max(row[split][task] for row in sources) for task in sources[0][split]}
        for row in [*content["baselines"], content["best"]]:
            expected = sum(row[split][task] / (best[task] or 1) for task in best) / len(best)
            assert row[value] == pytest.approx(expected)
    with sqlite3.connect(Store.path(tmp_path / "run")) as base:
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


def test_a_run_is_shown_after_its_models_are_gone(cli: Cli, result: Result, tmp_path: Path) -> None:
    copy = tmp_path / "arithmetic"
    shutil.copytree(ZOO / "arithmetic", copy)
    search = small_search(budget={"evaluations": 2})
    search["sources"]["arithmetic"] = str(copy)
    assert cli("run", write(tmp_path, search), "--run", tmp_path / "run").returncode == 0
    shutil.rmtree(copy)
    assert len(result(tmp_path / "run")["candidates"]) == 2
    assert cli("export", tmp_path / "run").returncode == 0
    assert cli("resume", tmp_path / "run").returncode == 2


def test_a_source_that_changed_since_is_refused(cli: Cli, tmp_path: Path) -> None:
    copy = tmp_path / "arithmetic"
    shutil.copytree(ZOO / "arithmetic", copy)
    search = small_search(budget={"evaluations": 2})
    search["sources"]["arithmetic"] = str(copy)
    assert cli("run", write(tmp_path, search), "--run", tmp_path / "run").returncode == 0
    shutil.copy(ZOO / "strings" / "model.safetensors", copy / "model.safetensors")
    again = cli("resume", tmp_path / "run")
    assert again.returncode == 2
    weights = copy / "model.safetensors"
    assert f"sources.arithmetic: {weights}: has changed since" in again.stderr


def copied(tmp_path: Path) -> tuple[Content, Path]:
    """The small search among copies of its models, and the folder of one of them."""
    for name in ("base", "arithmetic", "strings"):
        shutil.copytree(ZOO / name, tmp_path / "models" / name)
    search = small_search(base=str(tmp_path / "models" / "base"))
    search["sources"] = {name: str(tmp_path / "models" / name) for name in search["sources"]}
    return search, tmp_path / "models" / "arithmetic"


def values(content: Content) -> list[tuple[Any, ...]]:
    rows = [*content["baselines"], *content["candidates"]]
    return [(row["number"], row["value"], row["held_out"]) for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["in place", "renamed", "cut", "rope", "template"])
def test_a_process_whose_source_changes_stops_and_goes_on_once_it_is_back(
    how: str, cli: Cli, result: Result, finished: Path, tmp_path: Path
) -> None:
    search, source = copied(tmp_path)
    other = ZOO / "kanji" / "model.safetensors"
    names = {"rope": "config.json", "template": "chat_template.jinja"}
    file = source / names.get(how, "model.safetensors")
    running = Stopped(19, "run", write(tmp_path, search), "--run", tmp_path / "run")
    kept = file.read_bytes() if file.exists() else None
    if how == "in place":
        shutil.copyfile(other, file)
    elif how == "renamed":
        shutil.copyfile(other, tmp_path / "new")
        (tmp_path / "new").replace(file)
    elif how == "cut":
        os.truncate(file, 100)
    elif how == "rope":
        config = json.loads(file.read_text())
        rope = {**config.get("rope_parameters", {}), "rope_theta": 77.0}
        file.write_text(json.dumps({**config, "rope_parameters": rope}))
    else:
        file.write_text("{{ messages }}")
    code, talk = running.end(signal.SIGCONT)
    assert code == 1
    assert f"arithmetic: {file}: " in talk
    assert "evomerge resume" in talk
    assert "Traceback" not in talk
    refused = cli("resume", tmp_path / "run")
    assert refused.returncode == 2
    assert how == "cut" or f"sources.arithmetic: {file}: " in refused.stderr
    if kept is None:
        file.unlink()
    else:
        file.write_bytes(kept)
    assert cli("resume", tmp_path / "run").returncode == 0
    assert values(result(tmp_path / "run")) == values(result(finished))
    assert tells(tmp_path / "run") == (18, 18)


def test_nothing_is_left_behind_in_shared_places(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} <= {
        "run.sqlite",
        "run.lock",
        "run.lock.json",
        "recipe.yaml",
    }
