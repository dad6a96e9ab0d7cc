"""A search from Python: of a file, of keys, and of what was loaded."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.analysis.run import Run
from evomerge.api import load_run, resume, search
from evomerge.config.load import load
from evomerge.errors import ConfigError, RunError
from evomerge.search.spec import Progress

Content = dict[str, Any]


@pytest.fixture
def content(layers: Content) -> Content:
    """A search among single layers, of five candidates."""
    return {
        **layers,
        "name": "small",
        "sources": {name: layers["sources"][name] for name in ("a", "b")},
        "space": {
            "kind": "parameter",
            "operator": "task_arithmetic",
            "parameters": {"weight": {"low": 0, "high": 1.5}},
        },
        "optimizer": "random",
        "budget": {"evaluations": 5},
    }


def genes(run: Run) -> list[Any]:
    return [row.candidate.genome for row in run.candidates]


def test_a_file_its_keys_and_what_is_loaded_are_the_same_search(
    content: Content, tmp_path: Path
) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(yaml.safe_dump(content))
    seen: list[Progress] = []
    runs = [
        search(path, run=tmp_path / "file", progress=seen.append),
        search(str(path), run=str(tmp_path / "text")),
        search(content, run=tmp_path / "keys"),
        search(load(path), run=tmp_path / "loaded"),
    ]
    for run in runs:
        assert run.record.finished_utc and genes(run) == genes(runs[0])
        assert (run.folder / "recipe.yaml").read_text() == run.export()
    assert seen[-1].done == len(runs[0].rows) == 5 + 5


def test_a_run_is_kept_by_default_under_its_name(
    content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = search(content, overrides=["budget.evaluations=2", "name=other"])
    assert (run.folder, len(run.candidates)) == (Path("runs/other"), 2)


def test_the_keys_of_a_search_stay_as_they_are(content: Content, tmp_path: Path) -> None:
    before = yaml.safe_dump(content)
    load(content, ["space.parameters.weight.high=2"])
    assert yaml.safe_dump(content) == before
    with pytest.raises(ConfigError, match=r"^search: optimizer\.sigma: unknown key"):
        load(content, ["optimizer.sigma=1"])


def test_a_stopped_run_is_resumed_to_the_same_end(content: Content, tmp_path: Path) -> None:
    def stop(now: Progress) -> None:
        if now.done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(content, run=tmp_path / "stopped", progress=stop)
    whole = search(content, run=tmp_path / "whole")
    with pytest.raises(ConfigError, match="Only executor"):
        load_run(tmp_path / "stopped", ["seed=1"])
    assert genes(resume(tmp_path / "stopped")) == genes(whole)
    with pytest.raises(RunError, match="has a run already"):
        search(content, run=tmp_path / "whole")


def test_the_package_of_the_search_can_be_called(content: Content, tmp_path: Path) -> None:
    package: Any = import_module("evomerge.search")
    assert isinstance(package(content, run=tmp_path / "run", overrides=["seed=1"]), Run)
