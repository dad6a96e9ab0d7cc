"""What keeps a stored run from going on, reported before its models are opened."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml

from evomerge.config.compose import compose
from evomerge.config.load import load
from evomerge.config.resume import stored_search, version_notes
from evomerge.config.validation import ProblemCollector
from evomerge.errors import ConfigError
from evomerge.store import RunRecord
from evomerge.version import __version__, versions

SEARCH: dict[str, Any] = {
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


def test_the_values_of_variables_are_not_kept_and_come_from_whoever_resumes(
    layers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {key: SEARCH[key] for key in ("name", "budget")} | layers
    content |= {
        "space": {
            "kind": "parameter",
            "operator": "linear",
            "parameters": {"weight": {"low": 0, "high": 1}},
        }
    }
    variables = {"SECRET_TOKEN": "hunter2", "SECRET_PORT": 8080}
    ray = {"name": "ray", "runtime_env": {"env_vars": variables, "pip": ["x"]}}
    kept = load(content | {"executor": ray}).search.record
    assert "hunter2" not in repr(kept)
    assert "8080" not in repr(kept)
    names = dict.fromkeys(variables)
    stored = {"name": "ray", "runtime_env": {"env_vars": names, "pip": ["x"]}}
    assert stored_search(kept, "runs/stored").executor == stored

    def opened(*overrides: str) -> Any:
        file = stored_search(kept, "runs/stored", overrides)
        return compose(file, ProblemCollector("runs/stored")).search.new_executor()

    place = "executor.runtime_env.env_vars"
    why = "has no value here: a run keeps the names of variables, not their values."
    with pytest.raises(ConfigError) as caught:
        opened()
    assert caught.value.problems == tuple(
        f"runs/stored: {place}.{n}: {why} Export {n}, or add --set {place}.{n}=VALUE."
        for n in variables
    )
    monkeypatch.setenv("SECRET_TOKEN", "of the person")
    made = opened(f"{place}.SECRET_PORT=9090")._cluster.environment["runtime_env"]
    assert made == {
        "env_vars": {"SECRET_TOKEN": "of the person", "SECRET_PORT": "9090"},
        "pip": ["x"],
    }


def test_other_versions_of_libraries_than_at_the_beginning_are_told() -> None:
    now = versions("torch", "optuna")
    same = replace(record(), versions={"python": "3.0", **now})
    assert version_notes(same) == ()
    (note,) = version_notes(replace(same, versions={**now, "torch": "1.0"}))
    assert note == (
        f"the run began with torch 1.0, and goes on with {now['torch']}: scores may differ. "
        "To compare like with like, install torch==1.0."
    )
