"""Whole searches on a real Ray cluster."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small

from evomerge.config.load import load
from evomerge.errors import SourceChangedError
from evomerge.executors.local import LocalExecutor
from evomerge.optimizers.m2n2 import M2n2
from evomerge.search.loop import SearchLoop
from evomerge.search.run import resume, start
from evomerge.search.spec import Progress, Search
from evomerge.store import Store
from evomerge.weights.files.model_files import PUT_BACK
from evomerge.yaml_files import parse_yaml

pytestmark = pytest.mark.xdist_group("ray")

IN_ORDER = {"executor": {"name": "ray", "workers": 2, "tell_order": "asked"}}


@pytest.fixture
def context(tmp_path: Path) -> dict[str, Any]:
    """Models of one matrix, and a scorer that notes the processes in which it runs."""
    sources = small.write(tmp_path / "models")
    options = {"workers": str(tmp_path / "workers")}
    return {
        "base": sources.pop("base"),
        "sources": sources,
        "fitness": {"tasks": {"nearness": {"scorer": small.SCORER, "options": options}}},
        "engine": {"name": "torch", "module": small.MODULE, "threads": 1},
    }


def search(**changes: Any) -> Search:
    content = {
        "name": "small",
        "space": {
            "kind": "parameter",
            "operator": "task_arithmetic",
            "parameters": {"weight": {"low": 0, "high": 1.5}},
        },
        "optimizer": {"name": "cmaes", "population_size": 4},
        "budget": {"evaluations": 14},
    }
    return load(content | changes).search


def rows(folder: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(Store.path(folder)) as base:
        found: list[tuple[Any, ...]] = base.execute(
            "SELECT number, kind, genes, recipe_digest, value, held_out_value FROM leaderboard"
        ).fetchall()
        reported = base.execute(
            "SELECT count(*), count(DISTINCT candidate) FROM events WHERE kind = 'tell'"
        ).fetchone()
    assert reported == (len(found), len(found))  # none lost, none twice
    return found


def archive(folder: Path) -> list[int]:
    """The members of the archive that the recorded events lead to."""
    with Store.open(folder) as store:
        made = load(parse_yaml(store.run().search_yaml, str(folder))).search
        session = SearchLoop(made, store, LocalExecutor(), lambda progress: None)
        session.replay()
    assert isinstance(session.stage.optimizer, M2n2)
    return session.stage.optimizer.archive.numbers


def run(search: Search, folder: Path, executor: Callable[[], Any]) -> list[tuple[Any, ...]]:
    start(replace(search, new_executor=executor), folder, lambda progress: None)
    return rows(folder)


BRED = {
    "space": {"kind": "crossover", "interpolation": "slerp", "space": "task_vector"},
    "optimizer": {"name": "m2n2", "population_size": 4, "insert": "asked", "lag": 3},
}


def test_with_a_worker_killed_and_a_driver_interrupted_ray_breeds_what_one_worker_breeds(
    cluster: Any, context: dict[str, Any], tmp_path: Path
) -> None:
    here = run(search(**context, **BRED), tmp_path / "here", LocalExecutor)
    workers = tmp_path / "workers"
    workers.unlink()
    made, folder = search(**context, **BRED, **IN_ORDER), tmp_path / "ray"
    killed: list[int] = []

    def disturb(progress: Progress) -> None:
        if progress.done == 5 and not killed:
            killed.append(small.noted(workers)[-1])
            os.kill(killed[0], signal.SIGKILL)
        if progress.done == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(made, folder, disturb)
    first = small.noted(workers)
    fewer = search(**context, **BRED, executor=IN_ORDER["executor"] | {"workers": 1})
    resume(fewer, folder, lambda progress: None)
    assert rows(folder) == here
    archives = [archive(tmp_path / name) for name in ("here", "ray")]
    assert archives[0] == archives[1]
    assert len(archives[0]) == 4
    later = small.noted(workers)[len(first) :]
    assert os.getpid() not in (*first, *later)
    assert set(first).isdisjoint(later)
    assert killed


@pytest.mark.slow
@pytest.mark.parametrize("keys", [{}, BRED], ids=["cmaes", "m2n2"])
def test_in_the_order_asked_ray_finds_what_one_worker_finds(
    keys: dict[str, Any], cluster: Any, context: dict[str, Any], tmp_path: Path
) -> None:
    here = run(search(**context, **keys), tmp_path / "here", LocalExecutor)
    made = search(**context, **keys, **IN_ORDER)
    assert run(made, tmp_path / "ray", made.new_executor) == here


@pytest.mark.slow
def test_as_they_finish_every_candidate_is_reported_once(
    cluster: Any, context: dict[str, Any], tmp_path: Path
) -> None:
    made = search(**context, executor={"name": "ray", "workers": 2})
    found = run(made, tmp_path / "run", made.new_executor)
    assert Counter(row[1] for row in found)["search"] == 14
    assert all(row[4] is not None for row in found)


@pytest.mark.parametrize(
    "how", ["overwritten", *(pytest.param(how, marks=pytest.mark.slow) for how in ("cut", "code"))]
)
def test_a_source_that_changes_under_the_workers_ends_the_run_and_is_named(
    how: str, cluster: Any, context: dict[str, Any], tmp_path: Path
) -> None:
    source, folder = Path(context["sources"]["left"]), tmp_path / "run"
    file = source / ("modeling.py" if how == "code" else "model.safetensors")
    if how == "code":
        file.write_text("x = 1")
        (source / "config.json").write_text('{"auto_map": {"AutoModel": "modeling.Own"}}')
    kept = file.read_bytes()
    made = search(**context, **IN_ORDER, budget={"evaluations": 400})

    def change(progress: Progress) -> None:
        if progress.done == 8:
            file.write_bytes(kept[:40] if how == "cut" else kept[:-1] + b"?")

    with pytest.raises(SourceChangedError) as stopped:
        start(made, folder, change)
    told = str(stopped.value).splitlines()
    broken = ", and cannot be read any more," if how == "cut" else ""
    assert told == [f"left: {file}: changed{broken} while it was in use.", PUT_BACK]
    file.write_bytes(kept)
    with Store.open(folder, read_only=True) as store:
        before = len(store.events())
        assert all(one.status == "done" for _, one in store.evaluations("search"))

    def stop(progress: Progress) -> None:
        if progress.done >= 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resume(made, folder, stop)
    with Store.open(folder, read_only=True) as store:
        assert len(store.events()) > before


DYING = """
import os, signal
from pathlib import Path

def score(module, split, options):
    cut = Path(options["cut"])
    if Path(options["when"]).exists():
        os.truncate(cut, 10)
        os.kill(os.getpid(), signal.SIGBUS)
    return [float(next(module.parameters()).abs().mean())]
"""


@pytest.mark.slow
def test_workers_that_die_of_a_source_that_was_cut_end_the_run_with_its_name(
    cluster: Any, context: dict[str, Any], tmp_path: Path
) -> None:
    file, when = Path(context["sources"]["left"]) / "model.safetensors", tmp_path / "when"
    (tmp_path / "dying.py").write_text(DYING)
    options = {"cut": str(file), "when": str(when)}
    scorer = {"scorer": f"{tmp_path}/dying.py:score", "options": options}
    made = search(**context | {"fitness": {"tasks": {"one": scorer}}}, **IN_ORDER)

    def change(progress: Progress) -> None:
        if progress.done == 8:
            when.write_text("")

    with pytest.raises(SourceChangedError) as stopped:
        start(made, tmp_path / "run", change)
    assert str(stopped.value).splitlines() == [
        f"left: {file}: changed, and cannot be read any more, while it was in use.",
        PUT_BACK,
    ]
    with Store.open(tmp_path / "run", read_only=True) as store:
        assert all(one.status == "done" for _, one in store.evaluations("search"))
