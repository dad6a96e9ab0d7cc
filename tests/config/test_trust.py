"""Runs that somebody else began: they are looked at without running anything that they name."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.analysis.run import Run
from evomerge.api import load_run, resume, search
from evomerge.config.schema import SearchFile
from evomerge.config.trust import executes
from evomerge.errors import RunError
from evomerge.plugins import user_code
from evomerge.presets import shipped
from evomerge.store import Store
from evomerge.store.checking import accept
from evomerge.weights.build import build

Content = dict[str, Any]
Cli = Callable[..., Any]

SPACE = {
    "kind": "parameter",
    "operator": "task_arithmetic",
    "parameters": {"weight": {"low": 0, "high": 1.5}},
}


@pytest.fixture
def content(layers: Content, tmp_path: Path) -> Content:
    """A search whose code notes that it ran."""
    bomb = f"open({str(tmp_path / 'ran')!r}, 'a').close()\n"
    theirs = Path(layers["engine"]["module"].partition(":")[0]).read_text()
    (tmp_path / "code.py").write_text(f"import helper\n{bomb}{theirs}")
    (tmp_path / "helper.py").write_text(bomb)
    code = f"{tmp_path}/code.py"
    return {
        **layers,
        "name": "theirs",
        "space": SPACE,
        "optimizer": "random",
        "budget": {"evaluations": 3},
        "fitness": {"tasks": {"one": {"scorer": f"{code}:one"}}},
        "engine": {"name": "torch", "module": f"{code}:build", "threads": 1},
    }


@pytest.fixture
def stranger(content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that another user has begun."""
    search(content, run=tmp_path / "run")
    (tmp_path / "ran").unlink()
    monkeypatch.setattr(user_code, "_folders", {})  # what has run here would not run again
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "run"


def test_a_run_from_elsewhere_goes_on_only_where_it_is_trusted(
    stranger: Path, tmp_path: Path
) -> None:
    module, scorer, helper = (
        f"engine.module: {tmp_path}/code.py",
        f"fitness.tasks.one.scorer: {tmp_path}/code.py",
        f"{tmp_path}/helper.py",
    )
    listed = [module, f"engine.module: {helper}", scorer, f"fitness.tasks.one.scorer: {helper}"]
    with pytest.raises(RunError) as caught:
        resume(stranger)
    assert caught.value.problems == (
        f"{stranger}: was not begun on this machine by this user, and resuming it runs what "
        "follows. Look at it, then add --trust.",
        *(f"{stranger}: {line}" for line in listed),
    )
    asked: list[Sequence[str]] = []

    def no(code: Sequence[str]) -> bool:
        asked.append(code)
        return False

    with pytest.raises(RunError):
        load_run(stranger, trust=no)
    assert asked == [listed]
    assert not (tmp_path / "ran").exists()
    resume(stranger, trust=True)
    assert (tmp_path / "ran").exists()
    resume(stranger)  # it is known now
    (mark,) = (tmp_path / "state" / "evomerge" / "trusted").iterdir()
    assert mark.stat().st_mode & 0o777 == 0o600


def test_whoever_began_a_run_is_not_asked(content: Content, tmp_path: Path) -> None:
    search(content, run=tmp_path / "run")
    shutil.move(tmp_path / "run", tmp_path / "moved")
    assert resume(tmp_path / "moved").record.finished_utc


def test_a_run_without_code_of_a_user_s_is_resumed_by_anybody(content: Content) -> None:
    tasks = {"include_path": str(shipped("fitness") / "zoo_skills"), "tasks": ["zoo_arithmetic"]}
    file = SearchFile.model_validate(
        {**content, "fitness": tasks, "engine": "transformers", "executor": {"name": "ray"}}
    )
    assert list(executes(file)) == []


def test_all_that_brings_code_in_is_named(content: Content, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for name in ("mine.yaml", "mine.py", "data.jsonl"):
        (tasks / name).write_text("")
    runtime_env = {"env_vars": {"PYTHONPATH": "/evil"}, "pip": ["evil"]}
    keys = {
        "fitness": {"include_path": f"{shipped('fitness')}/../{tasks}", "tasks": ["mine"]},
        "engine": {"name": "vllm", "vllm": {"worker_cls": "evil.Worker"}},
        "executor": {"name": "ray", "address": "ray://evil:1", "runtime_env": runtime_env},
    }
    found = list(executes(SearchFile.model_validate({**content, **keys})))
    assert [path for path, _ in found] == [
        "engine.vllm.worker_cls",
        "fitness.include_path",
        "executor.address",
        "executor.runtime_env.env_vars",
        "executor.runtime_env.pip",
    ]
    keys |= {"fitness": {"include_path": str(tasks), "tasks": ["mine"]}}
    keys |= {"engine": {"name": "transformers", "attention": "evil/kernel"}, "executor": "local"}
    assert list(executes(SearchFile.model_validate({**content, **keys}))) == [
        ("engine.attention", "evil/kernel"),
        *(
            ("fitness.include_path", str(path))
            for path in (tasks, tasks / "mine.py", tasks / "mine.yaml")
        ),
    ]
    missing = {"fitness": {"tasks": {"x": {"scorer": "/gone.py:score"}}}}
    found = list(executes(SearchFile.model_validate({**content, **missing})))
    assert found[-1] == ("fitness.tasks.x.scorer", "/gone.py:score")


def test_what_whoever_resumes_a_run_sets_is_not_asked_about(stranger: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def no(code: Sequence[str]) -> bool:
        seen.extend(code)
        return False

    own = ["executor=ray", "executor.address=127.0.0.1:1", "executor.runtime_env.pip=[x]"]
    with pytest.raises(RunError):
        load_run(stranger, own, trust=no)
    assert {line.partition(".")[0] for line in seen} == {"engine", "fitness"}


def test_nothing_of_a_run_is_run_to_look_at_it(
    stranger: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the search could never have begun, and where Python lies in the working folder."""
    run = Run.open(stranger)
    build(run.recipe(), stranger / "best")
    record = run.record
    text = yaml.safe_load(record.search_yaml)
    text["fitness"]["tasks"]["lm"] = {"task": "gsm8k"}  # `show` has a command for it
    (tmp_path / "ran").unlink(missing_ok=True)
    with closing(sqlite3.connect(Store.path(stranger))) as base, base:
        base.execute("UPDATE runs SET search_yaml = ?", (yaml.safe_dump(text),))
    accept(stranger)
    for name in ("numpy", "torch", "yaml", "code", "evomerge", "sitecustomize"):
        shutil.copy(tmp_path / "helper.py", stranger / f"{name}.py")
    for words in (
        *(["show", "."], ["show", ".", "--json"], ["lineage", "."], ["list", "engines"]),
        *(["export", "."], ["export", ".", "--format", "mergekit"]),
        ["resume", "."],
    ):
        done = cli(*words, cwd=stranger)
        assert done.returncode == (2 if words[0] == "resume" else 0), done.stderr
    assert "add --trust" in done.stderr
    assert not (tmp_path / "ran").exists()
