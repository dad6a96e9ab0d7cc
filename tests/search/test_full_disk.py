"""Disks that fill up and files that can no longer be opened, under real processes."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.store import Store
from evomerge.store.checking import differences

pytestmark = pytest.mark.slow

Cli = Callable[..., Any]
FILE_BYTES, FILES = resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE


def limited(kind: int, most: int, *words: object) -> tuple[int, str]:
    """Exit code and talk of a command whose process may write or open no more than this."""
    done = subprocess.run(
        [sys.executable, "-c", "from evomerge.cli import main; main()", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=partial(resource.setrlimit, kind, (most, most)),
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, " ".join(done.stderr.split())


@pytest.fixture(scope="module")
def search(layers: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search")
    space = {"low": 0, "high": 1}
    content = {
        **layers,
        "name": "full",
        "space": {"kind": "parameter", "operator": "linear", "parameters": {"weight": space}},
        "optimizer": {"name": "cmaes", "population_size": 4},
        "budget": {"evaluations": 40},
    }
    (folder / "search.yaml").write_text(yaml.safe_dump(content))
    return folder / "search.yaml"


@pytest.fixture(scope="module")
def whole(search: Path, cli: Cli) -> Path:
    """A run that nothing disturbed."""
    assert cli("run", search, "--run", search.parent / "whole").returncode == 0
    return search.parent / "whole"


def rows(folder: Path, cli: Cli) -> Any:
    shown = json.loads(cli("show", folder, "--json").stdout)
    return shown["baselines"], shown["candidates"]


@pytest.mark.parametrize("most", [50_000, 150_000, 300_000, 600_000])
def test_a_run_that_fills_the_disk_goes_on_once_there_is_room(
    most: int, search: Path, whole: Path, cli: Cli, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    code, talk = limited(FILE_BYTES, most, "run", search, "--run", folder)
    assert code == 1
    assert str(folder) in talk
    if Store.exists(folder):
        assert differences(folder) == []
        assert limited(FILE_BYTES, 4096, "resume", folder)[0] == 1
        assert cli("resume", folder).returncode == 0
    else:
        assert cli("run", search, "--run", folder).returncode == 0
    assert rows(folder, cli) == rows(whole, cli)


@pytest.mark.parametrize("most", [8, 12, 16, 24])
def test_a_run_that_may_open_few_files_ends_with_a_sentence_or_goes_on(
    most: int, search: Path, whole: Path, cli: Cli, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    code, talk = limited(FILES, most, "run", search, "--run", folder)
    # SQLite does not say why it could not open its file
    said = "oo many open files" in talk or "run.sqlite: unable to open database file" in talk
    assert code == 0 or (code == 1 and said), talk
    words = ("resume", folder) if Store.exists(folder) else ("run", search, "--run", folder)
    assert cli(*words).returncode == 0
    assert rows(folder, cli) == rows(whole, cli)


@pytest.mark.parametrize("most", [0, 100, 5000, 50_000])
def test_a_build_that_fills_the_disk_leaves_nothing(
    most: int, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = {"evomerge": 1, "base": str(tiny()), "sources": {"a": str(tiny(1))}}
    recipe |= {"operator": "linear", "parameters": {"weight": 1.0}, "dtype": "float32"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, talk = limited(FILE_BYTES, most, "build", tmp_path / "recipe.yaml", tmp_path / "out")
    assert code == 1
    assert "File too large" in talk or "No usable temporary directory" in talk
    assert [file.name for file in tmp_path.iterdir()] == ["recipe.yaml"]


def test_an_export_that_fills_the_disk_leaves_the_file_that_was_there(
    whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "recipe.yaml"
    out.write_text("kept")
    code, talk = limited(FILE_BYTES, 10, "export", whole, "-o", out)
    assert (code, out.read_text()) == (1, "kept")
    assert str(out) in talk
    assert list(tmp_path.iterdir()) == [out]
