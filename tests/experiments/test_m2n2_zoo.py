"""What a run knew after so many tokens, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pytest

from evomerge.optimizers import Optimizer
from evomerge.optimizers.m2n2 import M2n2
from evomerge.optimizers.random import Random
from evomerge.recipes import Recipe
from evomerge.store import RunRecord, Store
from evomerge.types import Candidate, Evaluation, Genome, Kind, Parameter, TaskScores
from experiments.m2n2_zoo import courses
from experiments.m2n2_zoo.courses import Course, course
from experiments.m2n2_zoo.drawing import draw
from experiments.repeated import spread

PARAMETERS = [Parameter("weight", "float", 0.5)]
SOLVED = [(1, 0, 0, 0), (0, 1, 0, 0), (1, 1, 0, 0), (0, 0, 0, 1)]


def add(store: Store, number: int, solved: Sequence[int], kind: Kind, recipe: int) -> None:
    """One candidate, asked and reported; the four examples are of two tasks, ten tokens each."""
    made = Recipe(base="b", sources={"a": "a"}, operator="linear", seed=recipe, dtype="float32")
    store.record_ask(
        Candidate(number=number, kind=kind, genome=Genome({"weight": 0.5}), recipe=made), 0.0
    )
    halves = {"first": solved[:2], "second": solved[2:]}
    tasks = {
        name: TaskScores(sum(half) / 2, (0, 1), tuple(map(float, half)))
        for name, half in halves.items()
    }
    found = Evaluation("done", tasks, value=sum(solved) / 4, generated_tokens=40)
    store.record_tell(number, found, elapsed_seconds=1.0)


def ran(folder: Path, optimizer: Optimizer) -> Course:
    """A baseline, four candidates, one that repeats the first, and a mean."""
    with Store.create(
        folder, RunRecord(name="r", search_yaml="", seed=0, fitness_digest="f", settings_digest="s")
    ) as store:
        add(store, 0, (1, 1, 1, 1), "baseline", 100)
        for number, solved in enumerate(SOLVED, 1):
            add(store, number, solved, "search", number)
        add(store, 5, SOLVED[0], "search", 1)
        add(store, 6, (1, 1, 1, 0), "mean", 6)
        return course(store, optimizer)


def test_recipes_count_once_and_baselines_not_at_all(tmp_path: Path) -> None:
    found = ran(tmp_path / "run", Random(PARAMETERS, 0))
    assert found.tokens.tolist() == [40, 80, 120, 160]
    assert (found.numbers, found.mean) == ((1, 2, 3, 4), 6)
    assert found.skills.tolist() == [0.25, 0.25, 0.5, 0.25]


def test_a_run_stands_where_its_tokens_took_it(tmp_path: Path) -> None:
    found = ran(tmp_path / "run", Random(PARAMETERS, 0))
    assert found.at(39) is None
    assert found.at(40) == (1, 0.25, 0.25, 0.25)
    assert found.at(119) == (1, 0.25, 0.5, 0.5)
    assert found.at(1000) == (3, 0.5, 0.75, 0.75)


@pytest.mark.parametrize("seeds", ["sources", "starts"])
def test_the_archive_covers_what_the_best_do_not(
    seeds: Literal["sources", "starts"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courses, "POPULATION", 2)
    optimizer = M2n2(PARAMETERS, 0, population_size=2, seeds=seeds)
    found = ran(tmp_path / "run", optimizer)
    assert found.archives == ((1,), (1, 2), (2, 3), (3, 4))
    assert found.at(1000) == (3, 0.5, 0.75, 0.5)  # the best are 3 and, of equals, the first


def test_those_that_are_chosen_to_cover_add_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courses, "POPULATION", 2)
    found = ran(tmp_path / "run", Random(PARAMETERS, 0))
    assert found.chosen(120) == 0.5  # the first three leave two examples
    assert found.chosen(160) == 0.75


def test_a_spread_is_mean_and_standard_error_in_per_cent() -> None:
    assert spread([0.25, 0.75]) == "50.0 ± 25.0"


def test_the_figure_is_a_picture(tmp_path: Path) -> None:
    runs = [ran(tmp_path / str(seed), Random(PARAMETERS, 0)) for seed in (0, 1)]
    path = tmp_path / "figure.png"
    draw({"random": runs, "cmaes": runs[:1]}, 160.0, 0.5, path)
    assert path.read_bytes().startswith(b"\x89PNG")
