"""The one reader of a run: what it finds, and how often it asks the database."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import Engine, event

from evomerge.analysis.run import Run
from evomerge.errors import ConfigError, RunError
from evomerge.recipes import Recipe
from evomerge.recipes.yaml import to_yaml
from evomerge.store import RunRecord, Store
from evomerge.types import Candidate, Evaluation, Genome, TaskScores

SEARCH: dict[str, Any] = {
    "name": "made-up",
    "base": "/models/base",
    "sources": {"math": "/models/math", "ja": "/models/ja"},
    "space": {"kind": "parameter", "operator": "linear"},
    "fitness": {"tasks": {"sums": {"task": "sums"}, "words": {"task": "words"}}},
    "budget": {"evaluations": 50},
}


def recipe(weight: float, *names: str) -> Recipe:
    return Recipe(
        base=SEARCH["base"],
        sources={name: SEARCH["sources"][name] for name in names or SEARCH["sources"]},
        operator="linear",
        parameters={"weight": weight},
        dtype="float32",
    )


def scored(value: float) -> Evaluation:
    scores = TaskScores(value, (0, 1), (value, value))
    return Evaluation(status="done", tasks={"sums": scores, "words": scores}, value=value)


RECORD = RunRecord(
    name="made-up",
    search_yaml=yaml.safe_dump(SEARCH),
    seed=0,
    fitness_digest="f" * 64,
    settings_digest="s" * 64,
)


def run_of(folder: Path, candidates: int, **changes: Any) -> Path:
    """A run with two baselines, and candidates of which each is better than the one before."""
    record = replace(RECORD, search_yaml=yaml.safe_dump(SEARCH | changes))
    with Store.create(folder, record) as store, store.together():
        for number in range(2 + candidates):
            baseline = number < 2
            candidate = Candidate(
                number=number,
                kind="baseline" if baseline else "search",
                role="source" if baseline else None,
                genome=Genome({"weight": number / 100}),
                recipe=recipe(1.0, list(SEARCH["sources"])[number])
                if baseline
                else recipe(number / 100),
            )
            store.record_ask(candidate, float(number))
            store.record_tell(number, scored(number / 100), elapsed_seconds=number + 0.5)
            store.record_evaluation(candidate.recipe.digest, "held_out", scored(number / 200))
    return folder


def statements(folder: Path) -> int:
    """How many statements the database gets while a run is read."""
    counted: list[str] = []

    def count(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        counted.append(statement)

    event.listen(Engine, "before_cursor_execute", count)
    try:
        Run.open(folder)
    finally:
        event.remove(Engine, "before_cursor_execute", count)
    return len(counted)


def test_a_run_that_another_version_left_off_says_who_goes_on_with_it(
    tmp_path: Path, cli: Any
) -> None:
    with Store.create(tmp_path, replace(RECORD, versions={"evomerge": "0.2.2"})):
        pass
    assert "go on with  evomerge 0.2.2, which made it" in cli("show", tmp_path).stdout


def test_a_format_that_there_is_not_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no 'mergekitt'. Did you mean 'mergekit'"):
        Run.open(run_of(tmp_path, 1)).export(format="mergekitt")  # type: ignore[arg-type]


def test_reading_a_run_takes_as_many_queries_however_many_candidates_it_has(
    tmp_path: Path,
) -> None:
    few, many = (statements(run_of(tmp_path / str(n), n)) for n in (5, 50))
    assert few == many


def test_what_a_finished_run_has_left_of_its_budget_is_told(tmp_path: Path, cli: Any) -> None:
    said = "left of the budget: 47 of 50 evaluations"
    assert said not in cli("show", run_of(tmp_path, 3)).stdout
    with Store.open(tmp_path) as store:
        store.finish()
    assert said in cli("show", tmp_path).stdout


def test_every_candidate_has_a_row_with_both_scores(tmp_path: Path) -> None:
    run = Run.open(run_of(tmp_path, 3))
    assert [row.number for row in run.baselines] == [0, 1]
    assert [row.number for row in run.candidates] == [2, 3, 4]
    (*_, last) = run.rows
    assert last.search is not None and last.held_out is not None
    assert (last.search.value, last.held_out.value) == (0.04, 0.02)
    assert (last.search.tasks, last.search.examples) == ({"sums": 0.04, "words": 0.04}, 4)
    assert run.best is last
    assert run.elapsed_seconds == 4.5


def test_scores_are_relative_to_the_best_source_where_the_fitness_is(tmp_path: Path) -> None:
    fitness = SEARCH["fitness"] | {"normalize": "best_source"}
    run = Run.open(run_of(tmp_path, 1, fitness=fitness))
    assert [row.search.value for row in run.rows if row.search] == [0.0, 1.0, 2.0]


def test_a_candidate_is_chosen_by_its_number_or_as_the_best(tmp_path: Path) -> None:
    run = Run.open(str(run_of(tmp_path, 3)))
    assert run.candidate().number == run.candidate("best").number == 4
    assert run.candidate(3) == run.candidate("3")
    assert run.recipe(3) == recipe(0.03)
    assert run.export(3) == to_yaml(recipe(0.03))
    assert run.ancestry(3).candidate == 3
    for wrong in (5, "5", "-1", "03", "worst"):
        with pytest.raises(RunError, match=rf"no candidate {wrong}\. There are 0 to 4\."):
            run.row(wrong)


def test_there_is_no_best_before_a_candidate_is_scored(tmp_path: Path) -> None:
    run = Run.open(run_of(tmp_path, 0))
    assert run.best is None
    with pytest.raises(RunError, match="no candidate has been scored yet"):
        run.export()
