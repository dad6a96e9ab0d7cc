"""The loop with many workers: what depends on their timing, and what does not."""

from __future__ import annotations

import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event
from stragglers import Stragglers, history, leaderboard, run_with, until

from evomerge.analysis.run import Run
from evomerge.config.load import load
from evomerge.errors import ConfigError, ReplayError, SearchError
from evomerge.executors import TellOrder
from evomerge.executors.local import LocalExecutor
from evomerge.search import budget as clock_of_runs
from evomerge.search.run import resume, start
from evomerge.search.spec import Search
from evomerge.store import Store
from evomerge.store.checking import accept
from evomerge.types import Evaluation, Job

Content = dict[str, Any]


New = Callable[..., Search]


@pytest.fixture(scope="module")
def small_search(layers: Content) -> New:
    """Makes a search among single layers: the loop does not see what is merged and scored."""
    content: Content = {
        **layers,
        "name": "small",
        "sources": {name: layers["sources"][name] for name in ("a", "b")},
        "space": {
            "kind": "parameter",
            "operator": "task_arithmetic",
            "parameters": {"weight": {"low": 0, "high": 1.5}},
        },
        "optimizer": {"name": "cmaes", "population_size": 4},
        "start": "initial",
        "budget": {"evaluations": 14},
        "seed": 3,
    }

    def make(**changes: Any) -> Search:
        return load(content | changes).search

    return make


@pytest.mark.parametrize("workers", [1, 3, 7])
def test_in_the_order_asked_cmaes_finds_the_same_on_any_number_of_workers(
    workers: int, small_search: New, tmp_path: Path
) -> None:
    search = small_search()
    one = run_with(LocalExecutor(), search, tmp_path / "local")
    many = run_with(Stragglers(workers, "asked", seed=workers), search, tmp_path / "many")
    assert many == one
    assert [n for kind, n in history(tmp_path / "many") if kind == "tell"] == list(range(20))


def test_in_the_order_asked_an_optimizer_that_never_waits_depends_on_the_lookahead_alone(
    small_search: New, tmp_path: Path
) -> None:
    search = small_search(optimizer={"name": "optuna"}, budget={"evaluations": 24})
    one = run_with(LocalExecutor(lookahead=5), search, tmp_path / "local")
    for workers in (2, 5):
        executor = Stragglers(workers, "asked", seed=workers, lookahead=5)
        assert run_with(executor, search, tmp_path / str(workers)) == one
    assert run_with(LocalExecutor(), search, tmp_path / "another") != one


def test_as_they_finish_no_worker_is_idle_while_the_budget_lasts(
    small_search: New, tmp_path: Path
) -> None:
    search = small_search(budget={"evaluations": 30})
    executor = Stragglers(4, "finished", seed=1)
    run_with(executor, search, tmp_path / "run")
    asked = reported = 0
    for kind, number in history(tmp_path / "run"):
        if number < 5 or kind == "tell":
            reported += number >= 5 and kind == "tell"
            continue
        asked += 1
        assert asked - reported <= 4
    events = [event for event in history(tmp_path / "run") if event[1] >= 5]
    # after every tell but those at the end, somebody new is asked for before the next tell
    tells = [i for i, (kind, _) in enumerate(events) if kind == "tell"]
    assert all(events[i + 1][0] == "ask" for i in tells[:26])
    assert executor.most == 4


@pytest.mark.parametrize("order", ["asked", "finished"])
@pytest.mark.parametrize("optimizer", ["cmaes", "optuna", "random"])
def test_a_run_stopped_again_and_again_replays_exactly(
    order: TellOrder, optimizer: str, small_search: New, tmp_path: Path
) -> None:
    keys = {"name": "cmaes", "population_size": 4} if optimizer == "cmaes" else {"name": optimizer}
    search = small_search(optimizer=keys)
    folder = tmp_path / "run"
    go, evaluated = start, Counter[str]()
    for seed, stop in enumerate((3, 6, 9, 13, 17, 99)):
        executor = Stragglers(3, order, seed=seed)
        try:
            go(replace(search, new_executor=lambda: executor), folder, until(stop))  # noqa: B023
        except KeyboardInterrupt:
            assert stop < 99
        evaluated += executor.evaluated
        go = resume
    reported = Counter(number for kind, number in history(folder) if kind == "tell")
    assert set(reported.values()) == {1}
    assert len([row for row in leaderboard(folder) if row[1] == "search"]) == 14
    if order == "asked":
        alone = run_with(Stragglers(1, "asked", seed=9), search, tmp_path / "whole")
        assert leaderboard(folder) == alone
        assert max(evaluated.values()) == 1  # what finished before its turn was not lost


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (
            "UPDATE candidates SET genes = replace(genes, ': ', ': 1') WHERE number = 7",
            r"candidate 7 .*: gene \w+.* is 0\.\d+, recorded 10\.\d+. Resume with the versions",
        ),
        (
            "UPDATE candidates SET recipe_digest = (SELECT recipe_digest FROM candidates WHERE"
            " number = 6) WHERE number = 7",
            "candidate 7 is not what the run recorded: its kind, parents or recipe differ",
        ),
        (
            "DELETE FROM evaluations WHERE recipe_digest = (SELECT recipe_digest FROM candidates"
            " WHERE number = 7)",
            "candidate 7 was reported but has no evaluation",
        ),
    ],
    ids=["gene", "recipe", "evaluation"],
)
def test_a_history_that_this_code_does_not_reproduce_is_refused_and_left_as_it_is(
    change: str, difference: str, small_search: New, tmp_path: Path
) -> None:
    search, folder = small_search(), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        start(search, folder, until(9))
    with closing(sqlite3.connect(Store.path(folder))) as base, base:
        assert base.execute(change).rowcount == 1
    accept(folder)
    before = history(folder)
    with pytest.raises(ReplayError, match=difference):
        resume(search, folder, lambda progress: None)
    assert history(folder) == before


@pytest.mark.parametrize("order", ["asked", "finished"])
@pytest.mark.parametrize("statement", ["INSERT INTO events", "INSERT INTO evaluations"])
def test_what_finished_before_ctrl_c_is_not_evaluated_again(
    statement: str, order: TellOrder, small_search: New, tmp_path: Path
) -> None:
    search, folder = small_search(), tmp_path / "run"
    executors = [Stragglers(3, order, seed=0), Stragglers(3, order, seed=1)]
    first = replace(search, new_executor=lambda: executors[0])
    second = replace(search, new_executor=lambda: executors[1])
    done = 0

    def execute(cursor: Any, text: str, parameters: Any, context: Any) -> bool:
        nonlocal done
        cursor.execute(text, parameters)
        done += text.startswith(statement)
        if done == 9 and text.startswith(statement):
            signal.raise_signal(signal.SIGINT)
        return True

    event.listen(Engine, "do_execute", execute)
    try:
        with pytest.raises(KeyboardInterrupt):
            start(first, folder, lambda progress: None)
    finally:
        event.remove(Engine, "do_execute", execute)
    resume(second, folder, lambda progress: None)
    assert max((executors[0].evaluated + executors[1].evaluated).values()) == 1
    assert sum(row[1] == "search" for row in leaderboard(folder)) == 14


@pytest.mark.parametrize("order", ["asked", "finished"])
def test_a_recipe_at_work_is_not_evaluated_twice(
    order: TellOrder, small_search: New, tmp_path: Path
) -> None:
    space = {
        "kind": "parameter",
        "operator": ["linear", "task_arithmetic"],
        "parameters": {"weight": 0.5},
    }
    search = small_search(space=space, optimizer={"name": "random"})
    executor = Stragglers(6, order, seed=0)
    rows = run_with(executor, search, tmp_path / "run")
    assert sum(row[1] == "search" for row in rows) == 14
    assert len({row[3] for row in rows}) < 9
    assert max(executor.evaluated.values()) == 1


def test_champions_are_scored_on_all_workers(small_search: New, tmp_path: Path) -> None:
    executor = Stragglers(3, "asked", seed=0)
    rows = run_with(executor, small_search(champions=3), tmp_path / "run")
    assert executor.most == 3
    assert sum(row[1] != "baseline" and row[5] is not None for row in rows) == 3


def test_a_budget_of_gpu_hours_needs_gpus(small_search: New, tmp_path: Path) -> None:
    search = small_search(budget={"gpu_hours": 1})
    with pytest.raises(ConfigError, match="gpu_hours: 1, but the workers hold no GPU"):
        run_with(LocalExecutor(), search, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_budget_of_gpu_hours_is_refused_before_a_worker_opens(
    small_search: New, tmp_path: Path
) -> None:
    executor = Stragglers(2, "finished", seed=0)
    with pytest.raises(ConfigError, match="gpu_hours: 1, but the workers hold no GPU"):
        run_with(executor, small_search(budget={"gpu_hours": 1}), tmp_path / "run")
    assert not executor.was_started


def test_only_gpus_that_workers_hold_count(small_search: New, tmp_path: Path) -> None:
    search = small_search(budget={"gpu_hours": 1, "evaluations": 14}, optimizer={"name": "random"})
    executor = Stragglers(2, "finished", seed=0)
    many = 3600.0 * 3600.0
    executor.held = [0.0] * 8 + [many]  # as planned, but nobody finds room before the ninth result
    run_with(executor, search, tmp_path / "run")
    searched = sum(kind == "search" for _, kind, *_ in leaderboard(tmp_path / "run"))
    assert 0 < searched < 14
    executor = Stragglers(2, "finished", seed=0)
    executor.held = [many] * 2 + [0.0]  # what was held counts, though it is not held any more
    with pytest.raises(SearchError, match="no candidate could be scored"):
        run_with(executor, search, tmp_path / "lost")


class Clock:
    """Stands, but for the seconds that a test adds."""

    def __init__(self) -> None:
        self.now = 1e6

    def monotonic(self) -> float:
        return self.now


class TimedExecutor(Stragglers):
    """Takes 100 seconds of a set clock for every evaluation."""

    def __init__(self, clock: Clock, gpus: float) -> None:
        super().__init__(1, "finished", seed=0)
        self.clock, self.held = clock, [gpus]

    def result(self) -> tuple[Job, Evaluation]:
        self.clock.now += 100
        return super().result()


@pytest.mark.parametrize(
    ("gpus", "gpu_hours", "evaluations"),
    [
        (4, 0.999, 9),  # at 800 seconds there is time left
        (4, 1, 9),  # at 900 seconds, which are an hour of 4 GPUs, there is none
        (4, 1.001, 10),
        (4, 0.888, 8),
        (8, 1.999, 9),
        (8, 2.001, 10),
    ],
)
def test_a_budget_of_gpu_hours_ends_a_run(
    gpus: float,
    gpu_hours: float,
    evaluations: int,
    small_search: New,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(clock_of_runs, "time", clock)
    executor = TimedExecutor(clock, gpus)
    search = small_search(budget={"gpu_hours": gpu_hours}, optimizer={"name": "random"})
    rows = run_with(executor, search, tmp_path / "run")
    assert sum(job.startswith("search ") for job in executor.evaluated) == evaluations
    assert {kind for _, kind, *_ in rows} == {"baseline", "search"}


def test_a_worker_is_named_with_what_it_did(small_search: New, tmp_path: Path) -> None:
    run_with(LocalExecutor(), small_search(), tmp_path / "run")
    throughput = Run.open(tmp_path / "run").throughput
    (share,) = throughput.workers
    assert share.worker.startswith("0 on ")
    assert share.evaluations == len({r[3] for r in leaderboard(tmp_path / "run")}) + 8
    assert min(share.merge, share.generation, share.scoring) > 0
    assert throughput.candidates_per_hour is not None
