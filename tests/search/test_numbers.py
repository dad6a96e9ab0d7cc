"""Searches at the edge of what numbers can be: what is checked runs, and what runs is finite."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import evomerge
from evomerge.errors import ConfigError, SearchError
from evomerge.plugins import registry

SCORES = """
import torch

def size(module, split, options):
    torch.manual_seed(0)
    first = next(module.parameters()).flatten()[:4]
    return (first / first.abs().max()).double() * options["size"]

def odd(module, split, options):
    return [options["size"], float(options["word"])]
"""
SPACE = {
    "kind": "parameter",
    "operator": "linear",
    "parameters": {"weight": {"low": 0, "high": 1}},
}
Cli = Callable[..., Any]


def keys(layers: dict[str, Any], folder: Path, **changes: Any) -> dict[str, Any]:
    (folder / "scores.py").write_text(SCORES)
    return {
        **layers,
        "name": "edge",
        "space": SPACE,
        "budget": {"evaluations": 6},
        "optimizer": {"name": "cmaes", "population_size": 4},
        **changes,
    }


def scored(folder: Path, function: str, **options: Any) -> dict[str, Any]:
    return {"tasks": {"x": {"scorer": f"{folder}/scores.py:{function}", "options": options}}}


@pytest.mark.parametrize("optimizer", [*registry.names("optimizers"), "best_source"])
@pytest.mark.parametrize("size", [1e300, 1.7e308])
def test_scores_of_any_finite_size_are_searched_and_shown(
    size: float, optimizer: str, layers: dict[str, Any], tmp_path: Path, cli: Cli
) -> None:
    search = keys(layers, tmp_path, fitness=scored(tmp_path, "size", size=size))
    if optimizer in ("pareto", "como"):
        search["fitness"]["tasks"]["y"] = search["fitness"]["tasks"]["x"]
    if optimizer == "best_source":
        search["fitness"]["normalize"] = "best_source"
    elif optimizer in ("m2n2", "map_elites"):
        search |= {"space": {"kind": "crossover"}, "optimizer": optimizer}
    elif optimizer != "cmaes":
        search["optimizer"] = optimizer
    run = evomerge.search(search, run=tmp_path / "run")
    assert [row.status for row in run.candidates] == ["done"] * len(run.candidates)
    for command in (["show"], ["show", "--json"], ["lineage"], ["export"]):
        done = cli(command[0], tmp_path / "run", *command[1:])
        assert (done.returncode, done.stderr) == (0, "")
        assert max(map(len, done.stdout.splitlines())) < 400


@pytest.mark.parametrize("word", ["nan", "inf", "-inf"])
def test_a_score_that_is_not_finite_is_a_failure_with_a_sentence(
    word: str, layers: dict[str, Any], tmp_path: Path
) -> None:
    search = keys(layers, tmp_path, fitness=scored(tmp_path, "odd", size=1, word=word))
    with pytest.raises(SearchError, match="1 of 2 that are not finite"):
        evomerge.search(search, run=tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"seed": 2**64}, "seed: "),
        ({"seed": -1}, "seed: "),
        ({"seed": True}, "seed: expected a number, got true"),
        ({"optimizer": {"name": "cmaes", "population_size": 10**9}}, "optimizer.population_size: "),
        ({"optimizer": {"name": "m2n2", "population_size": 10**9}}, "optimizer.population_size: "),
        ({"optimizer": {"name": "cmaes", "sigma": 5e-324}}, "optimizer.sigma: "),
        ({"budget": {"evaluations": True}}, "budget.evaluations: expected a number, got true"),
        ({"budget": {"seconds": float("inf")}}, "budget.seconds: "),
        ({"budget": {"seconds": 1e308}}, "budget.seconds: "),
        ({"executor": {"name": "local", "lookahead": 10**9}}, "executor.lookahead: "),
        ({"champions": 10**30}, "champions: "),
        ({"stop_after_failures": 1e30}, "stop_after_failures: "),
    ],
)
def test_numbers_that_a_run_cannot_use_are_found_by_check(
    change: dict[str, Any], problem: str, layers: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        evomerge.load(keys(layers, tmp_path, **change))
    assert any(one.startswith(f"search: {problem}") for one in caught.value.problems)


@pytest.mark.parametrize("weight", [float("inf"), float("nan"), 1e308, 0, -1, True, 5e-324])
def test_a_weight_that_leaves_no_number_is_refused(
    weight: float, layers: dict[str, Any], tmp_path: Path
) -> None:
    fitness = scored(tmp_path, "size", size=1)
    fitness["tasks"]["x"]["weight"] = weight
    with pytest.raises(ConfigError, match=r"search: fitness.tasks.x.weight: "):
        evomerge.load(keys(layers, tmp_path, fitness=fitness))


@pytest.mark.parametrize(
    ("change", "stored"),
    [
        ({"seed": 2**63 - 1}, "seed"),
        ({"budget": {"evaluations": 3, "seconds": 1e9}}, "budget"),
        ({"executor": {"name": "local", "lookahead": 10_000}}, "executor"),
        ({"optimizer": {"name": "cmaes", "population_size": 100_000}}, "optimizer"),
        ({"champions": 10**9, "stop_after_failures": 10**9}, "champions"),
        ({"optimizer": {"name": "cmaes", "sigma": 1e-6, "population_size": 4.0}}, "optimizer"),
    ],
)
def test_the_largest_numbers_that_check_takes_run_and_read_back(
    change: dict[str, Any], stored: str, layers: dict[str, Any], tmp_path: Path
) -> None:
    run = evomerge.search(keys(layers, tmp_path, **change), run=tmp_path / "run")
    assert run.record.finished_utc is not None
    assert json.loads(run.file.model_dump_json(exclude_none=True))[stored] == change[stored]
