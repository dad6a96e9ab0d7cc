"""Searches in stages, on the real zoo: what a later stage sees, how they stop and go on."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from stragglers import Stragglers

from evomerge.config.load import load
from evomerge.errors import SearchError
from evomerge.executors.local import LocalExecutor
from evomerge.recipes import Recipe
from evomerge.scoring import Fitness, fitness_value
from evomerge.search import budget as clock_of_runs
from evomerge.search.run import resume, start
from evomerge.search.selection import winner
from evomerge.search.shown import shown
from evomerge.search.spec import Progress, Search
from evomerge.store import Store
from evomerge.types import Candidate, Evaluation, Genome, Job, TaskScores

ROOT = Path(__file__).parents[2]
BASELINES = 6
Content = dict[str, Any]
Rows = list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def content(layers: Content) -> Content:
    """Two stages of five candidates: merge two sources, then merge the best with a third."""

    def stage(name: str, operator: str, *sources: str) -> Content:
        return {
            "name": name,
            "sources": list(sources),
            "space": {
                "kind": "parameter",
                "operator": operator,
                "parameters": {"weight": {"low": 0, "high": 1.5}},
            },
            "optimizer": {"name": "cmaes", "population_size": 4},
            "budget": {"evaluations": 5},
        }

    return {
        **layers,  # what a stage sees does not depend on what is merged
        "name": "staged",
        "stages": [
            stage("merge", "task_arithmetic", "a", "b"),
            stage("add", "linear", "stage:merge", "c"),
        ],
        "champions": 2,
        "seed": 3,
    }


def search_of(keys: Content) -> Search:
    return load(keys).search


def with_budgets(content: Content, *budgets: Content, **stage: Any) -> Search:
    pairs = zip(content["stages"], budgets, strict=True)
    return search_of(content | {"stages": [{**one, "budget": b, **stage} for one, b in pairs]})


def after(tells: int) -> Callable[[Progress], None]:
    """Stops a session once this many results were reported in it."""
    shown = -1  # it is shown once before the first

    def observe(progress: Progress) -> None:
        nonlocal shown
        shown += 1
        if shown == tells:
            raise KeyboardInterrupt

    return observe


def rows(folder: Path) -> Rows:
    """Every candidate with its stage, genes and scores, to the last digit."""
    with sqlite3.connect(Store.path(folder), timeout=30) as base:
        return base.execute(
            "SELECT number, stage, kind, genes, recipe_digest, value, held_out_value "
            "FROM leaderboard ORDER BY number"
        ).fetchall()


def history(folder: Path) -> list[tuple[str, int, str]]:
    with sqlite3.connect(Store.path(folder), timeout=30) as base:
        return base.execute(
            "SELECT events.kind, number, stage FROM events JOIN candidates "
            "ON candidates.number = events.candidate ORDER BY sequence"
        ).fetchall()


def recipe_of(folder: Path, number: int) -> Recipe:
    with sqlite3.connect(Store.path(folder), timeout=30) as base:
        (text,) = base.execute(
            "SELECT json FROM recipes JOIN candidates ON digest = recipe_digest WHERE number = ?",
            (number,),
        ).fetchone()
    return Recipe.from_canonical_json(text)


@pytest.fixture(scope="module")
def whole(content: Content, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    start(search_of(content), folder, lambda progress: None)
    yield folder


def test_stages_are_one_run_with_one_numbering(whole: Path) -> None:
    found = rows(whole)
    assert [row[0] for row in found] == list(range(BASELINES + 12))
    kinds = [(stage, kind) for _, stage, kind, *_ in found]
    assert kinds[:BASELINES] == [("", "baseline")] * BASELINES
    of_stages = [[(stage, "search")] * 5 + [(stage, "mean")] for stage in ("merge", "add")]
    assert kinds[BASELINES:] == of_stages[0] + of_stages[1]


def test_recipes_of_a_later_stage_hold_the_best_of_the_earlier_one(whole: Path) -> None:
    merge = [row for row in rows(whole) if row[1] == "merge"]
    best = min(merge, key=lambda row: (-row[5], row[0]))
    for number in range(BASELINES + 6, BASELINES + 12):
        sources = recipe_of(whole, number).sources
        assert list(sources) == ["merge", "c"]
        assert isinstance(sources["merge"], Recipe)
        assert sources["merge"].digest == best[4]


def test_the_winner_of_an_earlier_stage_is_among_the_sources_by_its_score(
    content: Content, tmp_path: Path
) -> None:
    merge, add = content["stages"]
    add = add | {"start": "auto", "budget": {"evaluations": 20}}
    stages = [merge | {"budget": {"evaluations": 12}}, add]
    start(search_of(content | {"stages": stages}), tmp_path / "run", lambda progress: None)
    with Store.open(tmp_path / "run", read_only=True) as store:
        starts = [one.label for one in store.candidates() if one.stage == "add" and one.label]
    found = rows(tmp_path / "run")
    alone = {label: row[5] for label, row in zip(("base", "a", "b", "c"), found, strict=False)}
    assert max(row[5] for row in found if row[1] == "merge") > alone["c"]
    assert starts[1:] == ["merge alone", "merge leading", "c alone", "c leading"]


@pytest.mark.parametrize("normalize", ["none", "best_source"])
@pytest.mark.parametrize(("score", "order"), [(0.3, ("a", "b", "x")), (0.5, ("a", "x", "b"))])
def test_sources_and_winners_are_ordered_by_values_that_compare(
    score: float, order: tuple[str, ...], normalize: str
) -> None:
    fitness = Fitness.model_validate({"tasks": {"t": {"task": "t"}}, "normalize": normalize})

    def scored(number: int, name: str, score: float, **of: Any) -> tuple[Candidate, Evaluation]:
        recipe = Recipe(base="b", sources={name: name}, operator="linear", dtype="float32")
        tasks = {"t": TaskScores(score, (0,), (score,))}
        value = fitness_value(fitness, tasks, {"t": 0.6})
        candidate = Candidate(number=number, genome=Genome({}), recipe=recipe, **of)
        return candidate, Evaluation("done", value=value, tasks=tasks)

    sources = [
        scored(number, name, score, kind="baseline", role="source")
        for number, (name, score) in enumerate([("b", 0.4), ("a", 0.6)])
    ]
    best = scored(2, "y", score, kind="search", stage="x")
    results = {candidate.number: result for candidate, result in (*sources, best)}
    candidates = [candidate for candidate, _ in (*sources, best)]
    assert shown(fitness, {}, candidates, results, [best[0]]).best_first == order


def test_the_best_of_every_stage_are_scored_on_held_out_examples(whole: Path) -> None:
    scored = [row[1] for row in rows(whole) if row[2] != "baseline" and row[6] is not None]
    assert {stage: scored.count(stage) >= 2 for stage in ("merge", "add")} == {
        "merge": True,
        "add": True,
    }


def test_show_and_lineage_tell_the_stage(cli: Callable[..., Any], whole: Path) -> None:
    shown = json.loads(cli("show", whole, "--json").stdout)
    stages = [row["stage"] for row in shown["candidates"]]
    assert stages == ["merge"] * 6 + ["add"] * 6
    lines = cli("show", whole).stdout.splitlines()
    header = next(line for line in lines if "held-out" in line)
    assert header.split()[:2] == ["model", "stage"]
    last = str(BASELINES + 11)
    family = json.loads(cli("lineage", whole, "--candidate", last, "--json").stdout)
    best = min((r for r in rows(whole) if r[1] == "merge"), key=lambda row: (-row[5], row[0]))
    assert [one["number"] for one in family["ancestors"]] == [BASELINES + 11, best[0]]


def test_a_run_stopped_in_and_between_its_stages_ends_like_one_that_never_was(
    content: Content, whole: Path, tmp_path: Path
) -> None:
    folder, search, go, reported = tmp_path / "run", search_of(content), start, 0
    # among the baselines, in the first stage, at its end, in the second stage
    for tells, stage in ((4, ""), (5, "merge"), (3, "merge"), (2, "add")):
        with pytest.raises(KeyboardInterrupt):
            go(search, folder, after(tells))
        go, reported = resume, reported + tells
        tells_so_far = [event for event in history(folder) if event[0] == "tell"]
        assert len(tells_so_far) == reported
        assert tells_so_far[-1][2] == stage
        if reported == BASELINES + 6:
            assert {event[2] for event in history(folder)} == {"", "merge"}  # between the stages
    resume(search, folder, lambda progress: None)
    assert rows(folder) == rows(whole)


@pytest.mark.slow
def test_a_run_killed_in_and_between_its_stages_ends_like_one_that_never_was(
    content: Content, whole: Path, tmp_path: Path
) -> None:
    folder, wanted = tmp_path / "run", history(whole)
    # events at which to die: in the first stage, where the second one begins, in the second stage
    first = wanted.index(("ask", BASELINES + 2, "merge"))
    second = wanted.index(("ask", BASELINES + 6, "add"))
    third = wanted.index(("tell", BASELINES + 8, "add"))
    steps = [step + 1 for step in (first, second, third)]
    script = str(Path(__file__).parent / "die_at.py")
    words = [sys.executable, script, str(folder), *map(str, steps)]
    text = yaml.safe_dump(content)
    done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=300)
    ends = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert [code for code, _ in ends] == [-signal.SIGKILL] * 3, done.stderr
    assert all(recorded < step for (_, recorded), step in zip(ends, steps, strict=True))
    assert history(folder) == wanted[: ends[-1][1]]
    resume(search_of(content), folder, lambda progress: None)
    assert rows(folder) == rows(whole)
    assert history(folder) == wanted


def test_in_the_order_asked_many_workers_find_the_same(content: Content, tmp_path: Path) -> None:
    search = search_of(content)
    one = replace(search, new_executor=lambda: LocalExecutor(lookahead=4))
    start(one, tmp_path / "one", lambda progress: None)
    many = replace(search, new_executor=lambda: Stragglers(3, "asked", seed=5, lookahead=4))
    start(many, tmp_path / "many", lambda progress: None)
    assert rows(tmp_path / "many") == rows(tmp_path / "one")


def test_as_they_finish_the_next_stage_waits_for_the_last_result_and_replays(
    content: Content, tmp_path: Path
) -> None:
    search, shown = search_of(content), []
    executors = [Stragglers(3, "finished", seed=seed) for seed in (1, 2)]
    stop = after(BASELINES + 8)

    def observe(progress: Progress) -> None:
        shown.append(progress.stage)
        stop(progress)

    with pytest.raises(KeyboardInterrupt):
        start(replace(search, new_executor=lambda: executors[0]), tmp_path / "run", observe)
    again = replace(search, new_executor=lambda: executors[1])
    resume(again, tmp_path / "run", lambda progress: None)
    events = history(tmp_path / "run")
    begins = events.index(("ask", BASELINES + 6, "add"))
    assert sum(kind == "tell" and stage == "merge" for kind, _, stage in events[:begins]) == 6
    assert {"baselines", "merge", "merge, last results", "add"} == set(shown)
    assert [row[1] for row in rows(tmp_path / "run")].count("add") == 6


class Clock:
    """Stands, but for the seconds that a test adds."""

    def __init__(self) -> None:
        self.now = 1e6

    def monotonic(self) -> float:
        return self.now


class TimedExecutor(Stragglers):
    """Takes 100 seconds of a set clock for every evaluation, on two GPUs."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(1, "finished")
        self.held = [2.0]
        self.clock = clock

    def result(self) -> tuple[Job, Evaluation]:
        self.clock.now += 100
        return super().result()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"seconds": 900}, {"seconds": 301}),  # the baselines take 600 seconds of the first
        ({"gpu_hours": 1800 / 3600}, {"gpu_hours": 602 / 3600}),
        ({"evaluations": 3}, {"seconds": 301}),
    ],
)
def test_the_budget_of_a_stage_counts_from_its_beginning(
    content: Content,
    first: Content,
    second: Content,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(clock_of_runs, "time", clock)
    search = with_budgets(content, first, second, optimizer={"name": "random"})
    timed = replace(search, new_executor=lambda: TimedExecutor(clock))
    with pytest.raises(KeyboardInterrupt):
        start(timed, tmp_path / "run", after(BASELINES + 5))  # in the second stage
    resume(timed, tmp_path / "run", lambda progress: None)
    stages = [stage for _, stage, kind, *_ in rows(tmp_path / "run") if kind == "search"]
    assert stages == ["merge"] * 3 + ["add"] * 4


def evaluated(number: int, kind: Any, stage: str, value: float | None) -> Any:
    recipe = Recipe(base="b", sources={"a": "a"}, operator="linear", dtype="float32")
    recipe = recipe.model_copy(update={"seed": number})
    status: Any = "failed" if value is None else "done"
    error = "CandidateError: too large" if value is None else None
    candidate = Candidate(number=number, kind=kind, genome=Genome({}), recipe=recipe, stage=stage)
    return candidate, Evaluation(status, value=value, error=error)


def test_the_winner_is_the_best_of_its_stage_and_of_equals_the_first() -> None:
    found = [
        evaluated(0, "baseline", "", 0.9),
        evaluated(1, "search", "merge", 0.5),
        evaluated(2, "search", "merge", 0.7),
        evaluated(3, "search", "merge", None),
        evaluated(4, "mean", "merge", 0.7),
        evaluated(5, "search", "add", 0.8),
    ]
    candidates = [candidate for candidate, _ in found]
    results = {candidate.number: result for candidate, result in found}
    values = {number: one.value for number, one in results.items() if one.value is not None}
    assert winner("merge", candidates, results, values).number == 2
    assert winner("add", candidates, results, values).number == 5
    assert winner("merge", candidates, results, values | {4: 0.71}).number == 4


def test_a_stage_in_which_nothing_could_be_scored_has_no_winner() -> None:
    candidate, result = evaluated(1, "search", "merge", None)
    message = "stage merge: no candidate could be scored: CandidateError: too large"
    with pytest.raises(SearchError, match=message):
        winner("merge", [candidate], {1: result}, {})
