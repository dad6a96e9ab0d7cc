"""Searches that race: what is asked, what is recorded, and what a kill changes."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stragglers import Stragglers, history, leaderboard, run_with, until

from evomerge.config.load import load
from evomerge.errors import ConfigError, ReplayError
from evomerge.executors import TellOrder
from evomerge.executors.local import LocalExecutor
from evomerge.search.run import resume, start
from evomerge.search.spec import Search
from evomerge.store import Store
from evomerge.store.checking import accept

New = Callable[..., Search]
BASELINES = 5  # base, a, b, their average, the paper's defaults
P, FIRST = 8, 4
COHORT = P * FIRST + 4 * FIRST + 2 * 2 * FIRST
CODE = """
import torch

def chances(module, split, seed, examples):
    generator = torch.Generator().manual_seed(seed + (split == "held_out"))
    inputs = torch.randn(40, 6, generator=generator)
    wanted = torch.randint(4, (40,), generator=generator)
    scores = module(inputs).softmax(1)[torch.arange(40), wanted]
    return scores if examples is None else scores[examples]

def one(module, split, examples=None):
    return chances(module, split, 10, examples)

def two(module, split, examples=None):
    return chances(module, split, 20, examples)

def whole(module, split):
    return chances(module, split, 20, None)
"""


@pytest.fixture(scope="module")
def new(layers: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> New:
    """Makes a search among single layers, on two tasks of 40 examples."""
    code = tmp_path_factory.mktemp("racing") / "scorers.py"
    code.write_text(CODE)
    content = {
        **layers,
        "name": "small",
        "sources": {name: layers["sources"][name] for name in ("a", "b")},
        "space": {
            "kind": "parameter",
            "operator": "task_arithmetic",
            "parameters": {"weight": {"low": 0, "high": 1.5}},
        },
        "fitness": {"tasks": {name: {"scorer": f"{code}:{name}"} for name in ("one", "two")}},
        "optimizer": {"name": "cmaes", "population_size": P},
        "start": "initial",
        "racing": {"first": FIRST},
        "budget": {"evaluations": 40},
        "seed": 3,
    }

    def make(**changes: Any) -> Search:
        if scorer := changes.pop("scorer", None):
            changes["fitness"] = {"tasks": {"x": {"scorer": f"{code}:{scorer}"}}}
        return load(content | changes).search

    return make


def cells(folder: Path) -> Counter[tuple[str, str, int]]:
    """How often each example was asked of each recipe that was asked some of them."""
    asked: Counter[tuple[str, str, int]] = Counter()
    with closing(sqlite3.connect(Store.path(folder))) as base:
        for digest, scores in base.execute("SELECT recipe_digest, scores FROM portions"):
            for task, of_task in json.loads(scores).items():
                asked.update((digest, task, int(example)) for example in of_task)
    return asked


def test_a_cohort_is_asked_what_its_rungs_need_and_the_final_estimate_everything(
    new: New, tmp_path: Path
) -> None:
    board = run_with(LocalExecutor(), new(), tmp_path)
    asked = cells(tmp_path)
    assert set(asked.values()) == {1}  # no example twice
    searched = [digest for _, kind, _, digest, *_ in board if kind == "search"]
    ((estimate, value),) = [(row[3], row[4]) for row in board if row[1] == "mean"]
    assert len(searched) == len(set(searched)) == 40
    assert sum(digest in searched for digest, *_ in asked) == 5 * COHORT
    assert sum(digest == estimate for digest, *_ in asked) == 80
    # nobody who was asked some of the examples is ranked among those who were asked all
    assert all(row[4] is None for row in board if row[1] == "search")
    with Store.open(tmp_path, read_only=True) as store:
        whole = store.evaluation(estimate)
    assert whole is not None
    assert whole.value == value
    alone = run_with(LocalExecutor(), new(racing=False, budget={"evaluations": 8}), tmp_path / "x")
    assert {row[3]: row[4] for row in board if row[1] == "baseline"} == {
        row[3]: row[4] for row in alone if row[1] == "baseline"
    }


@pytest.mark.parametrize("start", ["initial", "auto"])
@pytest.mark.parametrize("workers", [1, 3, 8])
def test_in_the_order_asked_a_race_is_the_same_on_any_number_of_workers(
    workers: int, start: str, new: New, tmp_path: Path
) -> None:
    search = new(start=start)
    one = run_with(LocalExecutor(), search, tmp_path / "local")
    many = run_with(Stragglers(workers, "asked", seed=workers), search, tmp_path / "many")
    assert many == one
    assert cells(tmp_path / "many") == cells(tmp_path / "local")


@pytest.mark.parametrize("changes", [{}, {"start": "auto"}, {"start": "auto", "racing": False}])
@pytest.mark.parametrize("order", ["asked", "finished"])
def test_a_race_that_is_stopped_again_and_again_goes_on_as_it_was(
    order: TellOrder, changes: dict[str, Any], new: New, tmp_path: Path
) -> None:
    search, folder, go = new(**changes), tmp_path / "run", start
    for seed, results in enumerate((3, 7, 11, 20, 2, 31, 5, 9, 999)):
        executor = Interrupted(results, 3, order, seed)
        try:
            go(replace(search, new_executor=lambda: executor), folder, until(999))  # noqa: B023
        except KeyboardInterrupt:
            assert results < 999
        go = resume
    assert set(cells(folder).values()) <= {1}
    told = Counter(number for kind, number in history(folder) if kind == "tell")
    assert set(told.values()) == {1}
    assert len(told) == len(leaderboard(folder))
    if order == "asked":
        alone = run_with(LocalExecutor(), search, tmp_path / "whole")
        assert leaderboard(folder) == alone
        assert cells(folder) == cells(tmp_path / "whole")


class Interrupted(Stragglers):
    """Ends like a process that is interrupted, after so many results."""

    def __init__(self, results: int, workers: int, order: TellOrder, seed: int) -> None:
        super().__init__(workers, order, seed)
        self._left = results

    def result(self) -> Any:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return super().result()


def test_workers_are_kept_busy_by_the_next_cohort(new: New, tmp_path: Path) -> None:
    executor = Stragglers(6, "finished", seed=1)
    run_with(executor, new(), tmp_path)
    told = 0
    for kind, number in history(tmp_path):
        if number < BASELINES:
            continue
        told += kind == "tell"
        if kind == "ask":  # at most one cohort ahead of the one that is not told
            assert number - BASELINES < (told // P + 2) * P
    first_told = next(
        i for i, (kind, n) in enumerate(history(tmp_path)) if kind == "tell" and n >= BASELINES
    )
    ahead = [
        n for kind, n in history(tmp_path)[:first_told] if kind == "ask" and n >= BASELINES + P
    ]
    assert ahead
    assert set(cells(tmp_path).values()) == {1}


STARTS = ["initial", "1/2 of each", "0.7 of each"]
STARTS += ["a alone", "a leading", "b alone", "b leading", "task_arithmetic, paper's defaults"]


@pytest.mark.parametrize("racing", [{"first": FIRST}, False])
def test_the_best_of_several_points_is_where_the_search_starts(
    racing: Any, new: New, tmp_path: Path
) -> None:
    search = new(start="auto", racing=racing)
    run_with(LocalExecutor(), search, tmp_path)
    with Store.open(tmp_path, read_only=True) as store:
        candidates = store.candidates()
        values = {
            c.number: found.value
            for c in candidates
            if (found := store.evaluation(c.recipe.digest))
        }
    starts = [c for c in candidates if c.kind == "search" and c.label]
    assert [c.label for c in starts] == STARTS
    assert [c.number for c in starts] == list(range(BASELINES, BASELINES + len(STARTS)))
    drawn = [c for c in candidates if c.kind == "search" and not c.label]
    assert drawn
    if not racing:
        best = max(starts, key=lambda c: (values[c.number], -c.number))
        first = np.array([list(c.genome.genes.values()) for c in drawn[:P]])
        # sigma is a sixth of the cube, whose side is 1.5
        assert np.abs(first.mean(axis=0) - list(best.genome.genes.values())).max() < 0.4


def test_a_history_whose_scores_are_gone_is_refused(new: New, tmp_path: Path) -> None:
    search = new()
    executor = Interrupted(40, 1, "asked", 0)
    with pytest.raises(KeyboardInterrupt):
        start(replace(search, new_executor=lambda: executor), tmp_path, lambda progress: None)
    with closing(sqlite3.connect(Store.path(tmp_path))) as base, base:
        base.execute("DELETE FROM portions WHERE id = 3")
    accept(tmp_path)
    with pytest.raises(ReplayError, match="cohort of candidate 5 was reported before its end"):
        resume(search, tmp_path, lambda progress: None)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"optimizer": "random"}, "racing: the optimizer random learns from all examples"),
        ({"optimizer": "map_elites"}, "racing: the optimizer map_elites learns from all examples"),
        ({"racing": {"first": 1}}, "racing.first: 1 examples are fewer than the 2 tasks"),
        ({"racing": {"first": 0}}, "racing.*first"),
        ({"scorer": "whole"}, "racing: tasks.x: its scorer takes no `examples`"),
    ],
)
def test_what_cannot_race_is_refused_by_name(
    changes: dict[str, Any], problem: str, new: New
) -> None:
    with pytest.raises(ConfigError, match=problem):
        new(**changes)


def test_a_budget_of_examples_ends_before_the_cohort_that_it_does_not_reach_for(
    new: New, tmp_path: Path
) -> None:
    # room for ties and for the final estimate is kept
    reserved = FIRST + 2 * FIRST + 2 * FIRST + 80
    for budget, cohorts in ((3 * COHORT + reserved, 3), (3 * COHORT + reserved - 1, 2)):
        folder = tmp_path / str(budget)
        board = run_with(LocalExecutor(), new(budget={"examples": budget}), folder)
        assert sum(row[1] == "search" for row in board) == cohorts * P
        assert sum(cells(folder).values()) <= budget
