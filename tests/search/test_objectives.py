"""Whole searches of several objectives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import evomerge
from evomerge.errors import SearchError
from evomerge.search.spec import Progress
from evomerge.store import Store

SCORES = """
def near(module, split, options):
    rows = next(module.parameters())
    return 1 / (1 + (rows - options["target"]).square().sum(1))
"""
BEFORE = 5  # baselines


@pytest.fixture
def keys(layers: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A search for a matrix near two targets and near its base."""
    (tmp_path / "scores.py").write_text(SCORES)
    tasks = {
        name: {"scorer": f"{tmp_path}/scores.py:near", "options": {"target": target}}
        for name, target in (("zero", 0.0), ("one", 1.0))
    }
    objectives: dict[str, Any] = {name: {"tasks": [name]} for name in tasks}
    objectives["far"] = {"measure": "distance"}
    return {
        **layers,
        "name": "several",
        "space": {
            "kind": "parameter",
            "operator": "task_arithmetic",
            "parameters": {"weight": {"low": -1, "high": 1.5}},
        },
        "fitness": {"tasks": tasks, "objectives": objectives},
        "optimizer": {"name": "pareto", "population_size": 4},
        "budget": {"evaluations": 40},
    }


def outcome(folder: Path) -> list[tuple[Any, ...]]:
    with Store.open(folder, read_only=True) as store:
        evaluations = dict(store.evaluations("search"))
        return [
            (c.number, c.genome, evaluations[c.recipe.digest].value) for c in store.candidates()
        ]


@pytest.mark.parametrize("optimizer", ["pareto", "optuna"])
def test_a_search_that_is_stopped_goes_on_as_if_it_was_not(
    optimizer: str, keys: dict[str, Any], tmp_path: Path
) -> None:
    if optimizer == "optuna":
        keys["optimizer"] = {"name": "optuna", "sampler": "NSGAIISampler"}
    evomerge.search(keys, run=tmp_path / "whole")

    def stop_at(done: int) -> Any:
        def observe(progress: Progress) -> None:
            if progress.done >= done:
                raise KeyboardInterrupt

        return observe

    with pytest.raises(KeyboardInterrupt):
        evomerge.search(keys, run=tmp_path / "stopped", progress=stop_at(12))
    with pytest.raises(KeyboardInterrupt):
        evomerge.resume(tmp_path / "stopped", progress=stop_at(33))
    evomerge.resume(tmp_path / "stopped")
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")


def test_what_is_measured_of_models_is_recorded(keys: dict[str, Any], tmp_path: Path) -> None:
    keys["budget"] = {"evaluations": 4}
    run = evomerge.search(keys, run=tmp_path / "run")
    base, *sources = run.baselines
    with Store.open(tmp_path / "run", read_only=True) as store:
        found = {row.number: store.evaluation(row.recipe.digest) for row in run.rows}
    assert all(one is not None and one.measures.keys() == {"distance"} for one in found.values())
    distances = [one.measures["distance"] for one in found.values() if one is not None]
    assert distances[base.number] == 0.0
    assert all(distances[row.number] > 0 for row in sources if row.candidate.role == "source")


def test_whoever_reaches_all_floors_comes_before_any_that_does_not(
    keys: dict[str, Any], tmp_path: Path
) -> None:
    keys["optimizer"] = {"name": "random"}
    free = evomerge.search(keys, run=tmp_path / "free")
    assert free.best is not None and free.best.search is not None
    best = dict(free.best.search.tasks)
    floor = {name: best[name] + 1e-3 for name in best if name == min(best, key=lambda n: best[n])}
    bound = {**keys, "fitness": {**keys["fitness"], "floor": floor}}
    run = evomerge.search(bound, run=tmp_path / "bound")
    assert run.best is not None and run.best.search is not None
    (name,) = floor
    assert run.best.search.tasks[name] >= floor[name]
    assert run.best.search.value < free.best.search.value


def test_a_floor_of_a_source_that_cannot_be_scored_ends_the_search(
    keys: dict[str, Any], tmp_path: Path
) -> None:
    fails = (
        "def fails(module, split, options):\n"
        "    rows = next(module.parameters())\n"
        "    if abs(float(rows.sum()) - options['of']) < 1e-6:\n"
        "        raise RuntimeError('too hot')\n"
        "    return rows.square().sum(1)\n"
    )
    (tmp_path / "fails.py").write_text(fails)
    weights = load_file(Path(keys["sources"]["a"]) / "model.safetensors")
    total = float(weights["weight"].sum())
    keys["fitness"]["tasks"]["hot"] = {
        "scorer": f"{tmp_path}/fails.py:fails",
        "options": {"of": total},
    }
    keys["fitness"]["objectives"]["hot"] = {"tasks": ["hot"]}
    keys["fitness"]["floor"] = {"zero": "0.5 * source:a"}
    with pytest.raises(SearchError, match="source a does, which was not scored"):
        evomerge.search(keys, run=tmp_path / "run")
    assert [row.status for row in evomerge.Run.open(tmp_path / "run").baselines].count(
        "failed"
    ) == 1


def test_the_front_is_scored_on_held_out_examples_also_after_a_kill(
    keys: dict[str, Any], tmp_path: Path
) -> None:
    keys["optimizer"] = {"name": "random"}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"

    def stop(progress: Progress) -> None:
        if progress.stage == "held-out":
            raise KeyboardInterrupt

    def unseen(folder: Path) -> set[str]:
        with Store.open(folder, read_only=True) as store:
            return {digest for digest, _ in store.evaluations("held_out")}

    front = evomerge.search(keys, run=whole).front()
    with pytest.raises(KeyboardInterrupt):
        evomerge.search(keys, run=stopped, progress=stop)
    assert unseen(stopped) < unseen(whole)
    assert evomerge.resume(stopped).front() == front
    assert unseen(stopped) == unseen(whole)
    assert front.held_out_hypervolume == front.hypervolume  # these scorers ask the same
