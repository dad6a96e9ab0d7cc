"""Whole searches on a real Ray cluster."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from evomerge.config import load_resolved
from evomerge.executors.local import LocalExecutor
from evomerge.optimizers.m2n2 import M2n2
from evomerge.runs import start
from evomerge.search import Search
from evomerge.sitting import Sitting
from evomerge.store import Store

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "experiments" / "zoo"


def search(**changes: Any) -> Search:
    few = {"search_examples": 8, "held_out_examples": 8}
    content = {
        "name": "small",
        "base": str(ZOO / "base"),
        "sources": {name: str(ZOO / name) for name in ("arithmetic", "strings")},
        "space": {
            "kind": "parameter",
            "operator": "task_arithmetic",
            "parameters": {"weight": {"low": 0, "high": 1.5}},
        },
        "fitness": {
            "include_path": str(ROOT / "fitness" / "zoo_skills"),
            "tasks": {name: {"task": f"zoo_{name}", **few} for name in ("arithmetic", "strings")},
        },
        "optimizer": {"name": "cmaes", "population_size": 4},
        "engine": {"name": "transformers", "threads": 1},
        "budget": {"evaluations": 14},
    }
    return load_resolved(yaml.safe_dump(content | changes), "small").search


def rows(folder: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(folder / "run.sqlite") as base:
        found: list[tuple[Any, ...]] = base.execute(
            "SELECT number, kind, genes, recipe_digest, value, held_out_value FROM leaderboard"
        ).fetchall()
    return found


def archive(folder: Path) -> list[int]:
    """The members of the archive that the recorded events lead to."""
    with Store.open(folder) as store:
        made = load_resolved(store.run().search_yaml, str(folder)).search
        sitting = Sitting(made, store, LocalExecutor(), lambda progress: None)
        sitting.replay()
    assert isinstance(sitting.leg.optimizer, M2n2)
    return sitting.leg.optimizer.archive.numbers


def run(search: Search, folder: Path, executor: Callable[[], Any]) -> list[tuple[Any, ...]]:
    start(replace(search, new_executor=executor), folder, lambda progress: None)
    return rows(folder)


def test_in_the_order_asked_ray_finds_what_one_worker_finds(cluster: Any, tmp_path: Path) -> None:
    here = run(search(), tmp_path / "here", LocalExecutor)
    made = search(executor={"name": "ray", "workers": 2, "tell_order": "asked"})
    assert run(made, tmp_path / "ray", made.new_executor) == here


def test_with_a_lag_ray_breeds_the_children_that_one_worker_breeds(
    cluster: Any, tmp_path: Path
) -> None:
    bred = {
        "space": {"kind": "crossover", "interpolation": "slerp", "space": "task_vector"},
        "optimizer": {"name": "m2n2", "population_size": 4, "insert": "asked", "lag": 3},
    }
    here = run(search(**bred), tmp_path / "here", LocalExecutor)
    made = search(**bred, executor={"name": "ray", "workers": 2, "tell_order": "asked"})
    assert run(made, tmp_path / "ray", made.new_executor) == here
    archives = [archive(tmp_path / name) for name in ("here", "ray")]
    assert archives[0] == archives[1]
    assert len(archives[0]) == 4


def test_as_they_finish_every_candidate_is_told_once(cluster: Any, tmp_path: Path) -> None:
    made = search(executor={"name": "ray", "workers": 2})
    found = run(made, tmp_path / "run", made.new_executor)
    assert Counter(row[1] for row in found)["search"] == 14
    assert all(row[4] is not None for row in found)
