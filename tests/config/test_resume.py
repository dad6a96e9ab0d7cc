"""What keeps a stored run from going on, reported before its models are opened."""

from __future__ import annotations

import pytest
import yaml

from evomerge.config.resume import stored_search
from evomerge.errors import ConfigError
from evomerge.store import RunRecord
from evomerge.version import __version__

SEARCH = {
    "name": "stored",
    "base": "/nowhere/base",
    "sources": {"maths": "/nowhere/maths"},
    "space": {"kind": "parameter", "operator": "linear"},
    "fitness": {"tasks": ["x"]},
    "executor": {"name": "local"},
    "budget": {"evaluations": 3},
}


def record(version: str = __version__) -> RunRecord:
    return RunRecord(
        name="stored",
        search_yaml=yaml.safe_dump(SEARCH),
        seed=0,
        fitness_digest="f",
        settings_digest="s",
        versions={"evomerge": version},
    )


def problems(run: RunRecord, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        stored_search(run, "runs/stored", overrides)
    return caught.value.problems


def test_a_run_goes_on_with_another_executor() -> None:
    assert stored_search(record(), "runs/stored").executor == {"name": "local"}
    file = stored_search(record(), "runs/stored", ["executor=ray", "executor.workers=4"])
    assert file.executor == {"name": "ray", "workers": 4}


def test_all_overrides_that_are_refused_are_reported_at_once() -> None:
    assert problems(record(), "seed=1", "executor.worker=2", "budget.seconds=3") == (
        "--set: 'seed=1': a run goes on as it began. Only executor and its keys may be set.",
        "--set: 'budget.seconds=3': a run goes on as it began. Only executor and its keys may be "
        "set.",
        "runs/stored: executor.worker: unknown key. Known: lookahead.",
    )


def test_a_run_of_another_version_is_refused_beside_its_overrides() -> None:
    assert problems(record("0.0.0"), "seed=1", "executor=rai") == (
        "--set: 'seed=1': a run goes on as it began. Only executor and its keys may be set.",
        "runs/stored: evomerge 0.0.0 made this run, in which recipes may mean other models than in "
        f"evomerge {__version__}. Go on with evomerge 0.0.0, or begin a new run.",
    )
