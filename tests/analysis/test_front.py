from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import evomerge
from evomerge.analysis.front import Bound, FrontRow, RunFront, parse_bound, parse_weights
from evomerge.analysis.run import Run
from evomerge.errors import ConfigError, RunError
from evomerge.reports.front import front_table, told


@pytest.fixture(scope="module")
def keys(layers: dict[str, Any]) -> dict[str, Any]:
    space = {
        "kind": "parameter",
        "operator": "task_arithmetic",
        "parameters": {"weight": {"low": -0.5, "high": 1.5}},
    }
    objectives = {
        "first": {"tasks": ["one"]},
        "second": {"tasks": ["two"]},
        "far": {"measure": "distance"},
    }
    return {
        **layers,
        "name": "front",
        "space": space,
        "fitness": {**layers["fitness"], "objectives": objectives},
        "optimizer": "random",
        "budget": {"evaluations": 30},
        "champions": 1,
    }


@pytest.fixture(scope="module")
def run(keys: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A search of three objectives, finished."""
    return evomerge.search(keys, run=tmp_path_factory.mktemp("front") / "run")


def test_the_front_is_scored_on_held_out_examples(run: Run) -> None:
    front = run.front()
    assert 1 < len(front.rows) <= 12
    assert all(row.held_out_search.keys() == {"first", "second", "far"} for row in front.rows)
    assert front.held_out_hypervolume is not None
    assert front.goals == {"first": "maximize", "second": "maximize", "far": "minimize"}
    assert all(row.search["far"] >= 0 for row in front.rows)
    assert [row.value for row in front.rows] == sorted((r.value for r in front.rows), reverse=True)


def test_held_out_scores_choose_nothing(run: Run, keys: dict[str, Any], tmp_path: Path) -> None:
    alone = {**keys["fitness"], "tasks": dict(keys["fitness"]["tasks"])}
    del alone["objectives"]
    other = evomerge.search({**keys, "fitness": alone}, run=tmp_path / "run")
    assert other.best is not None and run.best is not None
    assert other.best.recipe.digest == run.best.recipe.digest
    # without objectives only the champion and the baselines are
    searched = [row for row in other.candidates if row.held_out]
    assert len(searched) == 1
    assert other.front().goals == {"one": "maximize", "two": "maximize"}
    assert other.front().held_out_hypervolume is None or len(other.front().rows) == 1


def test_weights_choose_from_the_front(run: Run) -> None:
    front = run.front()
    most = max(front.rows, key=lambda row: row.search["second"])
    assert run.choose({"second": 1.0}) == most.number
    nearest = run.choose({"far": 1.0})
    assert run.row(nearest).candidate.role == "base"  # the base is 0 away from itself


def test_bounds_choose_the_best_fitness_within_them(run: Run) -> None:
    values = {row.number: row.search.value for row in run.rows if row.search is not None}
    tasks = {row.number: row.search.tasks for row in run.rows if row.search is not None}
    middle = sorted(of["one"] for of in tasks.values())[len(tasks) // 2]
    within = [number for number, of in tasks.items() if of["one"] <= middle]
    chosen = run.choose(at=[f"first<={middle!r}"])
    assert values[chosen] == max(values[number] for number in within)
    far = run.choose({"first": 1.0}, at=["far<=0"])
    assert run.row(far).candidate.role == "base"


def test_what_cannot_be_chosen_is_an_error(run: Run) -> None:
    with pytest.raises(RunError, match=r"no model has first>=1e\+09: of \d+ each by itself has"):
        run.choose(at=["first>=1e9"])
    with pytest.raises(ConfigError) as caught:
        run.choose({"frist": 1.0}, at=["third>=1"])
    assert "Did you mean 'first'" in str(caught.value) and "'third'" in str(caught.value)


def test_weights_choose_from_all_models_within_bounds(run: Run) -> None:
    """The second best on an objective need not be on the front."""
    numbers = {r.number: r.search.tasks["one"] for r in run.rows if r.search is not None}
    below = max(value for value in numbers.values() if value < max(numbers.values()))
    chosen = run.choose({"first": 1.0}, at=[f"first<={below!r}"])
    assert numbers[chosen] == below


def test_a_front_that_no_model_reaches_is_an_error(keys: dict[str, Any], tmp_path: Path) -> None:
    keys = {**keys, "fitness": {**keys["fitness"], "floor": {"first": 1e9}}}
    run = evomerge.search({**keys, "budget": {"evaluations": 2}}, run=tmp_path / "run")
    assert run.front().rows == ()
    assert "reaches all floors" in told(run.front())[0]
    with pytest.raises(RunError, match=r"none of the \d+ models .* reaches all floors"):
        run.choose({"first": 1.0})
    assert run.choose(at=["far<=0"]) == 0  # which lacks the least of those within


def test_commands_show_the_front_and_export_a_point(run: Run, cli: Any) -> None:
    shown = cli("show", run.folder, "--front")
    assert shown.returncode == 0 and "far (least)" in shown.stdout
    found = json.loads(cli("show", run.folder, "--front", "--json").stdout)
    assert [row["number"] for row in found["rows"]] == [row.number for row in run.front().rows]
    number = run.choose({"second": 1.0})
    exported = cli("export", run.folder, "--weights", "second=1")
    assert exported.stdout == run.export(number) and exported.stderr == f"candidate {number}\n"
    assert cli("export", run.folder, "--at", "far<=0").stdout == run.export(0)
    assert cli("export", run.folder).stdout == run.export()
    for words in (
        ("export", run.folder, "--at", "far<=0", "--candidate", "1"),
        ("show", run.folder, "--front", "--candidate", "1"),
        ("export", run.folder, "--weights", "frist=1"),
        ("export", run.folder, "--at", "first>=1e9"),
    ):
        assert cli(*words).returncode == 2


def test_texts_of_weights_and_bounds() -> None:
    assert parse_weights("maths=2, ja qa=0.5") == {"maths": 2.0, "ja qa": 0.5}
    assert parse_bound(" ja qa >= .5 ") == Bound("ja qa", ">=", 0.5)
    assert parse_bound("layers<=20") == Bound("layers", "<=", 20.0)


@pytest.mark.parametrize(
    "text", ["", "maths", "maths=", "=1", "maths=x", "a=-1", "a=0", "a=nan", "a=1,a=2"]
)
def test_other_weights_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="weights"):
        parse_weights(text)


@pytest.mark.parametrize("text", ["", "maths", "maths=0.5", "maths>0.5", ">=1", "a>=x", "a>=inf"])
def test_other_bounds_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="at"):
        parse_bound(text)


def test_held_out_scores_are_shown_also_of_whoever_answers_all_search_examples() -> None:
    row = FrontRow(
        number=7,
        label="",
        value=1.0,
        held_out=0.75,
        search={"sums": 1.0, "blocks": 20.0},
        half_widths={"sums": 0.0, "blocks": 0.0},
        held_out_search={"sums": 0.75, "blocks": 20.0},
    )
    front = RunFront(
        rows=(row,),
        goals={"sums": "maximize", "blocks": "minimize"},
        among=1,
        nondominated=1,
        dropped=0,
        thinned=0,
        hypervolume=2.0,
        held_out_hypervolume=1.5,
        reference={"sums": 0.0, "blocks": 22.0},
    )
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as shown:
        console.print(front_table(front))
    assert "candidate 7     1.000      0.750   1.000 | 0.750               20" in shown.get()


def test_a_front_says_how_large_it_is(run: Run) -> None:
    said = " ".join(told(run.front()))
    assert "models that were asked everything are dominated by none" in said
    assert "on search examples" in said and "which chose nothing" in said


def test_commands_show_a_front_and_export_from_it(run: Run, cli: Any, tmp_path: Path) -> None:
    shown = cli("show", run.folder, "--front")
    assert shown.returncode == 0
    assert "far (least)" in shown.stdout and "measured from" in shown.stdout
    front = json.loads(cli("show", run.folder, "--front", "--json").stdout)
    assert [row["number"] for row in front["rows"]] == [row.number for row in run.front().rows]
    chosen = run.choose({"second": 1.0})
    exported = cli("export", run.folder, "--weights", "second=1")
    assert exported.stdout == run.export(chosen)
    assert exported.stderr == f"candidate {chosen}\n"
    within = cli("export", run.folder, "--at", "far<=0", "-o", tmp_path / "recipe.yaml")
    assert within.returncode == 0
    assert (tmp_path / "recipe.yaml").read_text("utf-8") == run.export(run.choose(at=["far<=0"]))
    both = cli("export", run.folder, "--at", "far<=0", "--candidate", "3")
    assert both.returncode == 2 and "leave out --weights and --at" in both.stderr
    recipe = cli("build", tmp_path / "recipe.yaml", tmp_path / "out", "--weights", "first=1")
    assert recipe.returncode == 2 and "choose from a" in recipe.stderr
    nothing = cli("build", run.folder, tmp_path / "out", "--at", "first>=1e9")
    assert nothing.returncode == 2 and "each by itself has" in nothing.stderr
