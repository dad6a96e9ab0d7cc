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
from evomerge.runs import start
from evomerge.search import Search

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


def run(search: Search, folder: Path, executor: Callable[[], Any]) -> list[tuple[Any, ...]]:
    start(replace(search, new_executor=executor), folder, lambda progress: None)
    return rows(folder)


def test_in_the_order_asked_ray_finds_what_one_worker_finds(cluster: Any, tmp_path: Path) -> None:
    here = run(search(), tmp_path / "here", LocalExecutor)
    made = search(executor={"name": "ray", "workers": 2, "tell_order": "asked"})
    assert run(made, tmp_path / "ray", made.new_executor) == here


def test_as_they_finish_every_candidate_is_told_once(cluster: Any, tmp_path: Path) -> None:
    made = search(executor={"name": "ray", "workers": 2})
    found = run(made, tmp_path / "run", made.new_executor)
    assert Counter(row[1] for row in found)["search"] == 14
    assert all(row[4] is not None for row in found)
