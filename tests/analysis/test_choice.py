"""Whether the winner of a run is better than what was there before."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.analysis.choice import Choice, paired
from evomerge.analysis.optimism import expected_largest
from evomerge.analysis.run import Run
from evomerge.recipes import Recipe
from evomerge.store import RunRecord, Store
from evomerge.types import Candidate, Evaluation, Genome, Role, TaskScores

SOURCES = {"math": "/models/math", "ja": "/models/ja"}
SEARCH: dict[str, Any] = {
    "name": "made-up",
    "base": "/models/base",
    "sources": SOURCES,
    "space": {"kind": "parameter", "operator": "linear"},
    "fitness": {"tasks": {"sums": {"task": "sums", "weight": 3}, "words": {"task": "words"}}},
    "budget": {"evaluations": 50},
}
BASELINES: tuple[tuple[Role, str], ...] = (
    ("base", "base"),
    ("source", "source: math"),
    ("source", "source: ja"),
    ("average", "uniform average"),
)
Rows = dict[int, tuple[str, str]]  # number to right (1) and wrong (0) answers of both tasks


def task(answers: str) -> TaskScores:
    scores = tuple(map(float, answers))
    return TaskScores(sum(scores) / len(scores), tuple(range(len(scores))), scores)


def scored(sums: str, words: str) -> Evaluation:
    tasks = {"sums": task(sums), "words": task(words)}
    return Evaluation("done", tasks, value=(3 * tasks["sums"].score + tasks["words"].score) / 4)


def run_of(folder: Path, search: Rows, held_out: Rows, **fitness: Any) -> Run:
    """A run of four baselines and as many candidates as there are other rows."""
    content = SEARCH | {"fitness": SEARCH["fitness"] | fitness}
    record = RunRecord(
        name="made-up",
        search_yaml=yaml.safe_dump(content),
        seed=0,
        fitness_digest="f" * 64,
        settings_digest="s" * 64,
    )
    with Store.create(folder, record) as store, store.together():
        for number, answers in search.items():
            role, label = BASELINES[number] if number < 4 else (None, "")
            candidate = Candidate(
                number=number,
                kind="search" if role is None else "baseline",
                role=role,
                label=label,
                genome=Genome({}),
                recipe=Recipe(
                    base="/models/base",
                    sources=dict(SOURCES),
                    operator="linear",
                    parameters={"weight": number},
                    dtype="float32",
                ),
            )
            store.record_ask(candidate, number)
            store.record_tell(number, scored(*answers), elapsed_seconds=number)
            if number in held_out:
                unseen = scored(*held_out[number])
                store.record_evaluation(candidate.recipe.digest, "held_out", unseen)
    return Run.open(folder)


SEARCHED: Rows = {
    0: ("0000", "0000"),
    1: ("1100", "0000"),
    2: ("0000", "1111"),
    3: ("1100", "1100"),
    4: ("1110", "1000"),
    5: ("1101", "0100"),
    6: ("1011", "0010"),
}
HELD_OUT: Rows = {
    0: ("000000", "0000"),
    1: ("110000", "0000"),
    2: ("000000", "1111"),
    3: ("111000", "1000"),
    4: ("111100", "1100"),
}


def choice(run: Run) -> Choice:
    assert run.choice is not None
    return run.choice


def test_the_winner_is_compared_on_examples_that_chose_nothing(tmp_path: Path) -> None:
    made = choice(run_of(tmp_path, SEARCHED, HELD_OUT))
    assert (made.among, made.split) == (3, "held_out")
    source, best = made.differences
    assert (source.over, source.baseline, source.label) == ("source", 1, "source: math")
    assert (best.over, best.baseline, best.label) == ("baseline", 3, "uniform average")
    # sums: two of six more than the source, weight 3/4; words: two of four more, weight 1/4
    assert source.value == pytest.approx(3 / 4 * 2 / 6 + 1 / 4 * 2 / 4)
    variance = (3 / 4) ** 2 * (4 / 15) / 6 + (1 / 4) ** 2 * (1 / 3) / 4
    assert source.half_width == pytest.approx(1.96 * math.sqrt(variance))
    assert (source.better, best.better) == (True, False)


def test_without_held_out_scores_the_winner_is_compared_where_it_was_chosen(
    tmp_path: Path,
) -> None:
    seen = choice(run_of(tmp_path, SEARCHED, {0: ("0", "0"), 1: ("1", "0")}))
    assert (seen.among, seen.split) == (3, "search")
    assert seen.differences[0].value == pytest.approx(3 / 4 * 1 / 4 + 1 / 4 * 1 / 4)


def test_the_same_recipe_twice_is_one_to_choose_from(tmp_path: Path) -> None:
    run = run_of(tmp_path, {n: SEARCHED[n] for n in range(5)}, {})
    assert (choice(run).among, choice(run).optimism) == (1, 0.0)
    with Store.open(tmp_path) as store:
        again = replace(store.candidates()[4], number=5)
        store.record_ask(again, 5)
        store.record_tell(5, scored(*SEARCHED[4]), elapsed_seconds=5)
    assert choice(Run.open(tmp_path)).among == 1


@pytest.mark.parametrize(("whole", "counted"), [(6, 3 + 2 + 1), (None, 3)])
def test_starts_that_lost_to_one_that_was_asked_everything_were_to_choose_from(
    whole: int | None, counted: int, tmp_path: Path
) -> None:
    """Two that were asked some of the examples, and a baseline."""
    alone = choice(run_of(tmp_path / "alone", SEARCHED, {}))
    assert alone.optimism is not None
    run_of(tmp_path / "run", {n: SEARCHED[n] for n in range(6)}, {})
    with Store.open(tmp_path / "run") as store:
        baseline, last = store.candidates()[3], store.candidates()[5]
        for number in range(6, 10):
            recipe = Recipe(**dict(last.recipe) | {"parameters": {"weight": number}})
            one = replace(last, number=number, recipe=recipe, label="" if whole != number else "x")
            if number > 6:
                recipe = baseline.recipe if number == 9 else recipe
                one = replace(one, recipe=recipe, label=f"start {number}")
            store.record_ask(one, number)
        store.record_tell(6, scored(*SEARCHED[6]), elapsed_seconds=9)
    made = choice(Run.open(tmp_path / "run"))
    assert made.among == alone.among == 3
    largest = expected_largest(counted) / expected_largest(3)
    assert made.optimism == pytest.approx(alone.optimism * largest)


def test_a_baseline_that_the_search_tried_again_is_none_to_choose_from(tmp_path: Path) -> None:
    run_of(tmp_path, {n: SEARCHED[n] for n in range(5)}, {})
    with Store.open(tmp_path) as store:
        for number, baseline in ((5, 1), (6, 3)):
            recipe = store.candidates()[baseline].recipe
            again = Candidate(number=number, kind="search", genome=Genome({}), recipe=recipe)
            store.record_ask(again, number)
            store.record_tell(number, scored(*SEARCHED[baseline]), elapsed_seconds=number)
    assert choice(Run.open(tmp_path)).among == 1


def test_a_baseline_may_win(tmp_path: Path) -> None:
    run_of(tmp_path, {**{n: SEARCHED[n] for n in range(4)}, 4: ("0000", "0000")}, {})
    with Store.open(tmp_path) as store:
        again = replace(store.candidates()[4], number=5, recipe=store.candidates()[3].recipe)
        store.record_ask(again, 5)
        store.record_tell(5, scored(*SEARCHED[3]), elapsed_seconds=5)
    run = Run.open(tmp_path)
    assert run.best is not None and run.best.number == 5
    made = choice(run)
    assert (made.among, made.differences[-1].baseline, made.differences[-1].value) == (2, 3, 0)


def test_differences_are_relative_to_the_best_source_where_the_fitness_is(tmp_path: Path) -> None:
    run = run_of(tmp_path, SEARCHED, HELD_OUT, normalize="best_source")
    (*_, best) = choice(run).differences
    by_number = {row.number: row.held_out.value for row in run.rows if row.held_out}
    assert best.value == pytest.approx(by_number[4] - by_number[best.baseline])


def test_the_optimism_is_that_of_the_candidates_that_were_asked_everything(tmp_path: Path) -> None:
    made = choice(run_of(tmp_path, SEARCHED, {}))
    assert made.optimism is not None
    # of each task's 3 x 4 answers, three examples have one candidate that differs from the others
    noise = 3 * (2 / 3) / (2 * 3)
    expected = math.sqrt(((3 / 4) ** 2 + (1 / 4) ** 2) * noise / 4)
    assert made.optimism == pytest.approx(expected_largest(3) * expected)


def test_a_winner_that_is_better_on_every_example_is_shown_to_be_better() -> None:
    value, half_width = paired({"x": 2.0}, {"x": task("1111")}, {"x": task("0000")})
    assert (value, half_width) == (2.0, 0.0)


@pytest.mark.parametrize("answers", ["1", "111"])
def test_no_interval_is_known_of_one_example_or_of_others(answers: str) -> None:
    assert paired({"x": 1.0}, {"x": task(answers)}, {"x": task("0")}) == (1.0, None)


def test_no_interval_is_known_of_a_score_that_is_no_mean() -> None:
    perplexity = replace(task("0110"), score=7.5)
    assert paired({"x": 1.0}, {"x": perplexity}, {"x": task("0110")}) == (7.0, None)
