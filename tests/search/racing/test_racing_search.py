"""Searches that race: what is asked, what is recorded, and what a kill changes."""

from __future__ import annotations

import json
import logging
import math
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, event
from stragglers import Stragglers, history, leaderboard, run_with, until

from evomerge.analysis.racing import by_recipe, part
from evomerge.analysis.run import Run
from evomerge.config.load import load
from evomerge.errors import ConfigError, ReplayError
from evomerge.executors import TellOrder
from evomerge.executors.local import LocalExecutor
from evomerge.optimizers.optuna import Optuna
from evomerge.recipes.yaml import to_yaml
from evomerge.search.budget import Reading
from evomerge.search.loop import SearchLoop
from evomerge.search.run import resume, start
from evomerge.search.shown import Shown
from evomerge.search.spec import Search
from evomerge.search.stage import StageRun
from evomerge.store import Store
from evomerge.store.checking import accept
from evomerge.types import FINAL_ESTIMATE
from evomerge.yaml_files import parse_yaml

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

def flat(module, split, examples=None):
    return chances(module, split, 20, examples) * 0

def fragile(module, split, examples=None, asked={}):
    scores = chances(module, split, 20, examples)
    key = float(next(module.parameters()).sum())
    asked[key] = asked.get(key, 0) + 1
    return scores / (asked[key] < 3) if split == "search" and examples else scores

def bowl(module, split, examples=None):
    values = torch.cat([parameter.flatten() for parameter in module.parameters()])
    return -values.square().mean().expand(40 if examples is None else len(examples))

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
    # nobody who was asked some of the examples is ranked among those who were asked all
    assert all(row[4] is None for row in board if row[1] == "search")
    with Store.open(tmp_path, read_only=True) as store:
        whole = store.evaluation(estimate)
    assert whole is not None
    assert whole.value == value
    assert sum(len(scores.doc_ids) for scores in whole.tasks.values()) == 80
    alone = run_with(LocalExecutor(), new(racing=False, budget={"evaluations": 8}), tmp_path / "x")
    assert {row[3]: row[4] for row in board if row[1] == "baseline"} == {
        row[3]: row[4] for row in alone if row[1] == "baseline"
    }


@pytest.mark.parametrize("weight", [0.5, 0.3])
def test_a_search_chooses_among_those_that_its_table_says_were_asked_everything(
    weight: float, new: New, tmp_path: Path
) -> None:
    """Two recipes that come again until they were asked all; or of which one is a baseline."""
    space = {
        "kind": "parameter",
        "operator": ["task_arithmetic", "ties"],
        "parameters": {"weight": weight},
    }
    search = new(
        space=space,
        optimizer="random",
        start=None,
        racing={"first": 4 * FIRST, "rungs": 1},
        budget={"evaluations": 5 * 24 if weight == 0.5 else 24},
    )
    with Store.create(tmp_path, search.record) as store:
        first = SearchLoop(search, store, LocalExecutor(), until(9999))
        first.executor.start(search.setup)
        first.finish()
        again = SearchLoop(search, store, LocalExecutor(), until(9999))
        again.replay()
    assert again.results.reported == first.results.reported
    rows = Run.open(tmp_path).candidates
    whole = {row.recipe.digest for row in rows if row.search}
    assert len(whole) > 1  # not the final estimate alone
    assert whole == {
        candidate.recipe.digest
        for candidate in first.results.candidates
        if candidate.kind != "baseline"
        and first.results.reported[candidate.number].value is not None
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
    assert set(cells(folder).values()) == ({1} if search.stages[0].racing else set())
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


def starts_of(best: str, other: str) -> list[str]:
    """The labels of the points from which a search may start."""
    first = ["initial", "task_arithmetic, paper's defaults", f"{best} alone", f"{best} leading"]
    return [*first, "1/2 of each", "0.7 of each", f"{other} alone", f"{other} leading"]


@pytest.mark.parametrize(
    ("racing", "budget"),
    [({"first": FIRST}, {"evaluations": 40}), ({"first": FIRST}, {"examples": 600}), (False, None)],
)
def test_the_best_of_several_points_is_where_the_search_starts(
    racing: Any, budget: Any, new: New, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "evomerge.search.stage")
    search = new(start="auto", racing=racing, budget=budget or {"evaluations": 40})
    run_with(LocalExecutor(), search, tmp_path)
    (said,) = (text for text in caplog.messages if text.startswith("the search starts"))
    assert said == f"the search starts from: {Run.open(tmp_path).starts[''].candidate.label}"
    with Store.open(tmp_path, read_only=True) as store:
        candidates = store.candidates()
        values = {
            c.number: found.value
            for c in candidates
            if (found := store.evaluation(c.recipe.digest))
        }
    starts = [c for c in candidates if c.kind == "search" and c.label]
    of_sources = {c.label[-1]: values[c.number] or 0 for c in candidates if c.role == "source"}
    best, other = sorted(of_sources, key=lambda name: -of_sources[name])
    assert [c.label for c in starts] == starts_of(best, other)
    assert [c.number for c in starts] == list(range(BASELINES, BASELINES + 8))
    drawn = [c for c in candidates if c.kind == "search" and not c.label]
    assert drawn
    if not racing:
        first_choice = max(starts, key=lambda c: (values[c.number], -c.number))
        first = np.array([list(c.genome.genes.values()) for c in drawn[:P]])
        # sigma is a sixth of the cube, whose side is 1.5
        assert np.abs(first.mean(axis=0) - list(first_choice.genome.genes.values())).max() < 0.4


@pytest.mark.parametrize(
    ("racing", "budget", "tried"),
    [
        (False, {"seconds": 1}, 8),
        (False, {"evaluations": 4 * 8}, 8),
        (False, {"evaluations": 4 * 8 - 1}, 7),
        (False, {"examples": 4 * 3 * 80}, 3),
        (False, {"evaluations": 4 * 2}, 2),
        (False, {"evaluations": 4 * 2 - 1}, 0),
        ({"first": FIRST, "rungs": 1}, {"examples": 4 * 3 * FIRST}, 3),
        ({"first": FIRST, "rungs": 2}, {"examples": 4 * (5 * FIRST + 3 * FIRST)}, 5),
        ({"first": FIRST, "rungs": 2}, {"examples": 4 * (5 * FIRST + 3 * FIRST) - 1}, 4),
    ],
)
def test_as_many_starts_are_tried_as_a_quarter_of_the_budget_is_enough_for(
    racing: Any, budget: dict[str, int], tried: int, new: New
) -> None:
    (stage,) = new(start="auto", racing=racing, budget=budget).stages
    run = StageRun(stage, {}, Reading(0, 0))
    examples, shares = {task: tuple(range(40)) for task in ("one", "two")}, {"one": 1.0, "two": 1.0}
    run.begin(Shown(examples, shares, ("b", "a"), 0), 0)
    proposed = [run.ask(number, ahead=False) for number in range(9)]
    labels = [one.label for one in proposed if one is not None]
    # after starts the optimizer waits; without any it has begun
    assert labels == (starts_of("b", "a")[:tried] if tried else [""] * P)


@pytest.mark.parametrize(
    ("quarter", "most"),
    [
        (8 * FIRST + 5 * FIRST, 2 * FIRST),
        (8 * FIRST + 5 * FIRST + 4 * 2 * FIRST, 4 * FIRST),
        (8 * FIRST + 5 * FIRST + 4 * 2 * FIRST + 3 * (80 - 4 * FIRST), 80),
    ],
)
def test_starts_climb_as_many_rungs_as_a_quarter_of_the_budget_is_enough_for(
    quarter: int, most: int, new: New, tmp_path: Path
) -> None:
    """Those of the cohorts, which have two, or more, up to all 80 examples."""
    budget = {"examples": 4 * quarter}
    search = new(start="auto", racing={"first": FIRST, "rungs": 2}, budget=budget)
    run_with(LocalExecutor(), search, tmp_path)
    with Store.open(tmp_path, read_only=True) as store:
        searched = [c for c in store.candidates() if c.kind == "search"]
        asked = {c.number: sum(map(len, store.cells(c.recipe.digest).values())) for c in searched}
    starts = [c.number for c in searched if c.label]
    assert len(starts) == 8
    assert max(asked[number] for number in starts) == most
    first_drawn = [c.number for c in searched if not c.label][:P]
    assert {asked[number] for number in first_drawn} == {FIRST, 2 * FIRST}


@pytest.mark.parametrize(("quarter", "most"), [(80, 80), (79, 16 * FIRST)])
def test_a_start_of_one_s_own_is_asked_everything_where_a_quarter_of_the_budget_is_enough(
    quarter: int, most: int, new: New, tmp_path: Path
) -> None:
    search = new(start={"weight": 1.25}, budget={"examples": 4 * quarter})
    run_with(LocalExecutor(), search, tmp_path)
    with Store.open(tmp_path, read_only=True) as store:
        own = store.candidates()[BASELINES]
        assert (own.kind, list(own.genome.genes.values())) == ("search", [1.25, 1.25])
        assert sum(map(len, store.cells(own.recipe.digest).values())) == most


def test_a_budget_that_reaches_for_starts_alone_scores_the_best(new: New, tmp_path: Path) -> None:
    run_with(LocalExecutor(), new(start="auto", budget={"examples": 128}), tmp_path)
    with Store.open(tmp_path, read_only=True) as store:
        *_, one, other, estimate = store.candidates()
        portions = [p.cells for p in store.portions() if p.recipe_digest == one.recipe.digest]
        defaults = store.evaluation(other.recipe.digest)  # a baseline as well
    assert (one.number, estimate.kind) == (BASELINES, FINAL_ESTIMATE)
    assert [one.label, other.label] == starts_of("b", "a")[:2]
    rungs = portions[:3]  # of 4, 8 and 16 examples; the fourth is the rest
    assert sum(len(ids) for cells in rungs for ids in cells.values()) == 4 * FIRST
    assert defaults is not None
    leads = [
        np.mean([score - defaults.cells[task][e] for c in rungs for e, score in c[task].items()])
        for task in ("one", "two")
    ]
    best = one if sum(leads) > 0 else other
    assert (estimate.label, estimate.genome) == (best.label, best.genome)


def test_a_search_starts_from_a_recipe_whose_file_may_go(new: New, tmp_path: Path) -> None:
    """And from values, beside the starts of `auto`."""
    first = new()
    recipe = first.stages[0].space.with_values({"weight": {"a": 1.25, "b": 0.125}})
    file = tmp_path / "earlier" / "recipe.yaml"
    file.parent.mkdir()
    file.write_text(to_yaml(first.stages[0].space.decode(recipe)))
    content = new(start=str(file.parent)).record.search_yaml
    both = new(start=["auto", str(file.parent), {"weight": 0.25}])
    for number, search in enumerate((new(start=str(file)), both)):
        folder = tmp_path / str(number)
        with pytest.raises(KeyboardInterrupt):
            start(search, folder, until(BASELINES + 1))
        with Store.open(folder, read_only=True) as store:
            stored = store.run().search_yaml
        file.unlink(missing_ok=True)
        resume(load(parse_yaml(stored, "run")).search, folder, lambda progress: None)
        with Store.open(folder, read_only=True) as store:
            searched = [c for c in store.candidates() if c.kind == "search"]
        if number == 1:
            assert [c.label for c in searched[:3]] == [str(file.parent), "given 3", "initial"]
            assert list(searched[0].genome.genes.values()) == [1.25, 0.125]
            assert list(searched[1].genome.genes.values()) == [0.25, 0.25]
        else:
            assert [c.label for c in searched[:2]] == [str(file), ""]
            drawn = np.array([list(c.genome.genes.values()) for c in searched[1 : P + 1]])
            assert np.abs(drawn.mean(axis=0) - [1.25, 0.125]).max() < 0.3
    assert file.parent.name in content and "1.25" in content


@pytest.mark.parametrize(("racing", "order"), [({"first": FIRST}, "asked"), (False, "finished")])
def test_a_search_ends_when_its_optimizer_has_converged(
    racing: Any, order: TellOrder, new: New, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "evomerge.search.stage")
    search = new(scorer="bowl", racing=racing, budget={"evaluations": 60 * P}, start="auto")
    board = run_with(Stragglers(3, order, seed=0), search, tmp_path / "whole")
    ends = [text for text in caplog.messages if "converged" in text]
    asked = sum(row[1] == "search" for row in board)
    assert P < asked < 60 * P
    assert ends == [f"the optimizer has converged; {60 * P - asked:,} of 480 evaluations left"]
    assert [row[1] for row in board].count("mean") == 1
    folder, go = tmp_path / "stopped", start
    for seed, results in enumerate((99, 60, 9999)):
        executor = Interrupted(results, 3, order, seed)
        try:
            go(replace(search, new_executor=lambda: executor), folder, until(9999))  # noqa: B023
        except KeyboardInterrupt:
            assert results < 9999
        go = resume
    if order == "asked":
        assert leaderboard(folder) == board
    resume(search, folder, until(9999))  # once more, from the end


@pytest.mark.parametrize("optimizer", ["optuna", "random"])
def test_an_optimizer_without_means_recommends_the_candidate_that_did_best(
    optimizer: str, new: New, tmp_path: Path
) -> None:
    search = new(optimizer=optimizer, budget={"evaluations": 2 * 24})
    board = run_with(LocalExecutor(), search, tmp_path / "whole")
    assert sum(row[1] == "search" for row in board) == 2 * 24
    assert set(cells(tmp_path / "whole").values()) == {1}
    folder, go = tmp_path / "stopped", start
    for seed, results in enumerate((50, 9999)):
        executor = Interrupted(results, 5, "asked", seed)
        try:
            go(replace(search, new_executor=lambda: executor), folder, until(9999))  # noqa: B023
        except KeyboardInterrupt:
            assert results < 9999
        go = resume
    assert leaderboard(folder) == board
    with Store.open(folder) as store:
        session = SearchLoop(search, store, LocalExecutor(), until(9999))
        session.replay()
        *searched, estimate = store.candidates()[BASELINES:]
        portions = [*store.portions()]
    chosen = searched[int(estimate.label.removeprefix("candidate ")) - BASELINES]
    assert estimate.recipe == chosen.recipe
    if isinstance(session.stage.optimizer, Optuna):
        told = [trial.value or 0.0 for trial in session.stage.optimizer._study.trials]
        scores = [part(asked).tasks.values() for asked in by_recipe(portions).values()]
        raw = [np.mean([task.score for task in tasks]) for tasks in scores]
        # whichever examples were asked, and drawn to the mean of their cohort
        assert np.std(told) < np.std(raw) / 2
        assert abs(np.mean(told) - np.mean(raw)) < np.std(raw)


def test_a_history_whose_scores_are_gone_is_refused(new: New, tmp_path: Path) -> None:
    search = new()
    executor = Interrupted(40, 1, "asked", 0)
    with pytest.raises(KeyboardInterrupt):
        start(replace(search, new_executor=lambda: executor), tmp_path, lambda progress: None)
    with closing(sqlite3.connect(Store.path(tmp_path))) as base, base:
        base.execute("DELETE FROM portions WHERE id = 3")
    accept(tmp_path)
    with pytest.raises(ReplayError, match=r"cohort of candidate \d+ was reported before its end"):
        resume(search, tmp_path, lambda progress: None)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
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
        assert sum(cells(folder).values()) + 80 <= budget


def test_a_budget_that_reaches_for_no_cohort_scores_the_start(new: New, tmp_path: Path) -> None:
    board = run_with(LocalExecutor(), new(budget={"examples": P * FIRST}), tmp_path)
    assert sorted(row[1] for row in board) == ["baseline"] * BASELINES + ["mean"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"budget": {"tokens": 100}}, "budget.tokens: no task of the fitness has any generated"),
        ({"budget": {"evaluations": 7}}, "budget.evaluations: 7, and the first cohort alone take"),
        ({"budget": {"examples": 31}}, "budget.examples: 31, and the first cohort alone takes 32"),
    ],
)
def test_a_budget_that_ends_never_or_at_once_is_refused(
    changes: dict[str, Any], problem: str, new: New
) -> None:
    with pytest.raises(ConfigError, match=problem):
        new(**changes)


def test_final_estimates_are_paid_for_where_they_are_asked(
    new: New, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evomerge.search.finalists.ENOUGH_FOR_A_CHOICE", 2 * COHORT)
    budget = 16 * COHORT
    search = new(budget={"examples": budget})
    board = run_with(LocalExecutor(), search, tmp_path / "whole")
    estimates = [row for row in board if row[1] == "mean"]
    assert all(row[4] is not None for row in estimates)
    asked = cells(tmp_path / "whole")
    at_once = {row[3] for row in estimates} - {digest for digest, *_ in asked}
    assert sum(asked.values()) + 80 * len(at_once) <= budget
    with Store.open(tmp_path / "whole", read_only=True) as store:
        candidates = store.candidates()
    labels = [one.label for one in candidates if one.kind == FINAL_ESTIMATE]
    assert labels == [
        "average of the late means",
        "last mean",
        "average of the latest means",
        "start",
    ]
    folder, go = tmp_path / "stopped", start
    for results in (BASELINES + 2 * P, 999):  # once while they are asked
        executor = Interrupted(len(board) if go is resume else results, 1, "asked", 0)
        with pytest.raises(KeyboardInterrupt):
            go(replace(search, new_executor=lambda: executor), folder, until(9999))  # noqa: B023
        go = resume
    resume(search, folder, until(9999))
    assert leaderboard(folder) == board


def test_candidates_that_fail_on_a_later_rung_are_paid_for(new: New, tmp_path: Path) -> None:
    budget = 6 * COHORT
    search = new(scorer="fragile", budget={"examples": budget}, racing={"first": FIRST})
    search = replace(search, stop_after_failures=10_000)
    run_with(LocalExecutor(), search, tmp_path)
    with Store.open(tmp_path, read_only=True) as store:
        failed = [digest for digest, one in store.evaluations("search") if one.status == "failed"]
    assert failed
    asked = sum(cells(tmp_path).values()) + 2 * FIRST * len(failed)  # on the rung where it failed
    assert asked + 40 <= budget


@pytest.mark.parametrize("first", [40, 80])
def test_rungs_that_run_out_of_examples_cost_no_more_than_there_are(
    first: int, new: New, tmp_path: Path
) -> None:
    search = new(racing={"first": first}, budget={"examples": 4000})
    board = run_with(LocalExecutor(), search, tmp_path)
    asked = sum(cells(tmp_path).values())
    assert 4000 - 2 * 80 * P < asked <= 4000
    assert sum(row[1] == "search" for row in board) >= 4000 // (80 * P) * P - P


class Talkative(Stragglers):
    """Says of every example that ten tokens were generated in answer to it."""

    def result(self) -> Any:
        job, one = super().result()
        count = sum(len(scores.doc_ids) for scores in one.tasks.values())
        return job, replace(one, generated_tokens=10 * count, worker="0")


@pytest.mark.parametrize("racing", [{"first": FIRST}, {"first": 80}, False])
@pytest.mark.parametrize("start_at", ["initial", "auto"])
def test_a_budget_of_tokens_ends_a_search_where_it_is_spent(
    racing: Any, start_at: str, new: New, tmp_path: Path
) -> None:
    search = new(racing=racing, start=start_at, budget={"tokens": 10_000, "evaluations": 5000})
    run_with(Talkative(1, "asked", 0), search, tmp_path / "whole")
    with Store.open(tmp_path / "whole", read_only=True) as store:
        searched = {c.recipe.digest for c in store.candidates() if c.kind == "search"}
        whole = (one for digest, one in store.evaluations("search") if digest in searched)
        tokens = store.tokens(math.inf) if racing else sum(one.generated_tokens for one in whole)
    # what is under way comes on top, and of a race what is left to ask of its final estimate
    assert 10_000 <= tokens < 10_000 + 10 * 80 * (P + 1)
    folder, go = tmp_path / "stopped", start
    for seed, results in enumerate((20, 17, 40, 9999)):
        executor = TalkativeInterrupted(results, seed)
        try:
            go(replace(search, new_executor=lambda: executor), folder, until(9999))  # noqa: B023
        except KeyboardInterrupt:
            assert results < 9999
        go = resume
    assert leaderboard(folder) == leaderboard(tmp_path / "whole")


class TalkativeInterrupted(Talkative):
    """The same, and ends like a process that is interrupted."""

    def __init__(self, results: int, seed: int) -> None:
        super().__init__(1, "asked", seed)
        self._left = results

    def result(self) -> Any:
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return super().result()


def test_a_race_in_which_all_tie_asks_more_at_first_and_goes_on_after_a_kill(
    new: New, tmp_path: Path
) -> None:
    search = new(scorer="flat", racing={"first": FIRST}, budget={"evaluations": 16 * P})
    for seed in range(3):
        folder, go = tmp_path / str(seed), start
        for results in (90, 110, 120, 9999):
            executor = Interrupted(results, 6, "finished", seed)
            try:
                go(replace(search, new_executor=lambda: executor), folder, until(9999))  # noqa: B023
            except KeyboardInterrupt:
                assert results < 9999
            go = resume
        by_recipe = Counter(digest for digest, *_ in cells(folder))
        assert min(by_recipe.values()) == FIRST < max(by_recipe.values())
        assert 2 * FIRST in by_recipe.values()


@pytest.mark.parametrize("statement", ["portions", "evaluations", "events", "candidates"])
@pytest.mark.parametrize("at", [3, 23, 61])
def test_a_race_goes_on_after_ctrl_c_in_the_middle_of_a_record(
    statement: str, at: int, new: New, tmp_path: Path
) -> None:
    search, done = new(), 0

    def execute(cursor: Any, text: str, parameters: Any, context: Any) -> bool:
        nonlocal done
        cursor.execute(text, parameters)
        if text.startswith(f"INSERT INTO {statement}"):
            done += 1
            if done == at:
                signal.raise_signal(signal.SIGINT)
        return True

    event.listen(Engine, "do_execute", execute)
    try:
        start(search, tmp_path / "run", lambda progress: None)
    except KeyboardInterrupt:
        resume(search, tmp_path / "run", lambda progress: None)
    finally:
        event.remove(Engine, "do_execute", execute)
    alone = run_with(LocalExecutor(), search, tmp_path / "whole")
    assert leaderboard(tmp_path / "run") == alone
    told = Counter(number for kind, number in history(tmp_path / "run") if kind == "tell")
    assert told == Counter(range(len(alone)))
    assert set(cells(tmp_path / "run").values()) == {1}


def test_every_stage_races_on_examples_of_its_own(new: New, tmp_path: Path) -> None:
    content = {
        "space": {
            "kind": "parameter",
            "operator": "task_arithmetic",
            "parameters": {"weight": {"low": 0, "high": 1.5}},
        },
        "optimizer": {"name": "cmaes", "population_size": P},
        "start": "initial",
        "racing": {"first": FIRST},
        "budget": {"evaluations": P},
    }
    names = dict.fromkeys(("space", "optimizer", "start", "racing", "budget"))
    stages = [{"name": name, **content} for name in ("x", "y")]
    run_with(LocalExecutor(), new(**names, stages=stages), tmp_path)
    with Store.open(tmp_path, read_only=True) as store:
        stage = {c.recipe.digest: c.stage for c in store.candidates() if c.kind == "search"}
        portions = [p for p in store.portions() if p.recipe_digest in stage]
    first = {stage[p.recipe_digest]: p.cells for p in portions}
    assert {task: set(ids) for task, ids in first["x"].items()} != {
        task: set(ids) for task, ids in first["y"].items()
    }
