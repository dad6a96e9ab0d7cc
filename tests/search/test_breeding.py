"""Searches that breed, on the real zoo: the same children again, and after a kill."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.analysis.run import Run
from evomerge.config.load import load
from evomerge.optimizers.m2n2 import M2n2
from evomerge.search.loop import SearchLoop
from evomerge.search.run import resume, start
from evomerge.search.spec import Progress
from evomerge.store import Store
from evomerge.yaml_files import parse_yaml

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "experiments" / "zoo"
Cli = Callable[..., Any]
ROWS = """
    SELECT number, kind, genes, recipe_digest, group_concat(parent), value
    FROM candidates
    LEFT JOIN (SELECT * FROM parents ORDER BY child, position) ON child = number
    LEFT JOIN evaluations USING (recipe_digest)
    WHERE split = 'search' GROUP BY number ORDER BY number
"""


def write(folder: Path) -> Path:
    """A search of a dozen children of three chromosomes, along arcs between task vectors."""
    few = {"search_examples": 8, "held_out_examples": 4}
    content = {
        "name": "bred",
        "base": str(ZOO / "base"),
        "sources": {name: str(ZOO / name) for name in ("arithmetic", "strings", "kanji")},
        "space": {
            "kind": "crossover",
            "chromosomes": ["attention", "mlp", "rest"],
            "interpolation": "slerp",
            "space": "task_vector",
        },
        "fitness": {
            "include_path": str(ROOT / "fitness" / "zoo_skills"),
            "tasks": {
                "arithmetic": {"task": "zoo_arithmetic", **few},
                "strings": {"task": "zoo_strings", **few},
            },
        },
        "optimizer": {"name": "m2n2", "population_size": 4, "warm_up": 2},
        "engine": {"name": "transformers", "threads": 1},
        "budget": {"evaluations": 15},
        "seed": 1,
    }
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def run(folder: Path) -> Path:
    start(load(write(folder)).search, folder / "run", lambda now: None)
    return folder / "run"


def rows(folder: Path) -> list[tuple[Any, ...]]:
    """Every candidate with genes, recipe, parents and fitness."""
    with sqlite3.connect(Store.path(folder), timeout=30) as base:
        return base.execute(ROWS).fetchall()


def archive(folder: Path) -> list[int]:
    """The members of the archive that the recorded events lead to."""
    with Store.open(folder) as store:
        search = load(parse_yaml(store.run().search_yaml, str(folder))).search
        session = SearchLoop(search, store, search.new_executor(), lambda now: None)
        session.replay()
        # the sources' inner products were on record
        assert search.stages[0].space.new_grams() == []
        assert isinstance(session.stage.optimizer, M2n2)
        return session.stage.optimizer.archive.numbers


def grams(folder: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(Store.path(folder), timeout=30) as base:
        return base.execute("SELECT * FROM grams ORDER BY position").fetchall()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed."""
    return run(tmp_path_factory.mktemp("finished"))


def test_seeds_cost_nothing_and_children_have_two_parents(finished: Path) -> None:
    searched = [row for row in rows(finished) if row[1] == "search"]
    assert len(searched) == 15
    baselines = {row[3] for row in rows(finished) if row[1] == "baseline"}
    assert all(row[3] in baselines and row[4] is None for row in searched[:3])
    assert all(len(row[4].split(",")) == 2 for row in searched[3:])
    assert [json.loads(row[2])["chosen_by"] for row in searched[3:5]] == ["warm_up"] * 2


def test_the_same_search_has_the_same_children(finished: Path, tmp_path: Path) -> None:
    again = run(tmp_path)
    assert rows(again) == rows(finished)
    assert archive(again) == archive(finished)


def test_a_search_may_begin_with_sums_of_sources(tmp_path: Path) -> None:
    search = load(write(tmp_path), ["optimizer.seeds=starts", "budget.evaluations=13"]).search
    with pytest.raises(KeyboardInterrupt):
        start(search, tmp_path / "run", stopping_at(9))
    resume(search, tmp_path / "run", lambda progress: None)
    *seeds, last = [row for row in rows(tmp_path / "run") if row[1] == "search"]
    assert [row[4] is None for row in (*seeds, last)] == [True] * 12 + [False]
    sums = {sum(json.loads(row[2])["rows"][0]) for row in seeds if "rows" in json.loads(row[2])}
    assert sums == {1, 1.5, 1.4, 1.6, 3 * 0.7}


def stopping_at(done: int) -> Callable[[Progress], None]:
    def stop(progress: Progress) -> None:
        if progress.done == done:
            raise KeyboardInterrupt

    return stop


def assert_same(folder: Path, finished: Path) -> None:
    """Both runs have the same children, inner products and archive."""
    assert rows(folder) == rows(finished)
    assert grams(folder) == grams(finished)
    assert len(grams(folder)) > 30
    assert len(archive(folder)) == 4
    assert archive(folder) == archive(finished)


def test_a_stopped_search_goes_on_to_the_same_archive(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        start(load(write(tmp_path)).search, folder, stopping_at(12))
    resume(load(write(tmp_path)).search, folder, lambda progress: None)
    assert_same(folder, finished)


@pytest.mark.slow
def test_a_killed_search_goes_on_to_the_same_archive(finished: Path, tmp_path: Path) -> None:
    search, folder = load(write(tmp_path)).search, tmp_path / "run"
    # events at which to die: among the seeds, and among children of children
    words = [sys.executable, str(Path(__file__).parent / "die_at.py"), str(folder), "19", "29"]
    text = search.record.search_yaml
    done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=300)
    codes = [int(line.split()[0]) for line in done.stdout.splitlines()]
    assert codes == [-signal.SIGKILL] * 2, done.stderr
    resume(search, folder, lambda progress: None)
    assert_same(folder, finished)


def test_the_lineage_of_a_child_ends_at_the_sources(cli: Cli, finished: Path) -> None:
    last = max(row[0] for row in rows(finished))
    found = json.loads(cli("lineage", finished, "--candidate", last, "--json").stdout)
    first, *others = found["ancestors"]
    assert (first["number"], first["share"]) == (last, 1.0)
    assert set(first["parents"]) <= {one["number"] for one in others}
    assert {"split[mlp]", "ratio[mlp]", "chosen_by", "fitness[0]"} <= first["genes"].keys()
    seeds = [one for one in others if not one["parents"]]
    assert sum(one["share"] for one in seeds) == pytest.approx(1)
    assert sum(found["sources"].values()) == pytest.approx(1)
    assert {one["genes"]["source"] for one in seeds} <= found["sources"].keys()


def test_the_lineage_is_shown_as_a_tree(cli: Cli, finished: Path) -> None:
    text = cli("lineage", finished, "--depth", 20).stdout
    assert "mlp split at 0." in text and "share of the weights" in text
    assert "source arithmetic" in text or "source strings" in text


def test_the_best_child_is_exported_in_a_few_kilobytes(finished: Path) -> None:
    last = max(row[0] for row in rows(finished))
    assert len(Run.open(finished).export(last)) < 8000
