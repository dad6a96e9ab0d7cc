"""Runs that evomerge 0.2.2 made: what their folder holds is as readable as it was."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.store import Store

STORED = Path(__file__).parent / "v0_2_2"
NAMES = ("cmaes", "m2n2")
SINCE = ("The best of ", "On held-out examples ")  # how lines begin that 0.2.2 did not print

Cli = Callable[..., Any]


@pytest.fixture(params=NAMES)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The folder of such a run, called by its name."""
    folder = tmp_path / str(request.param)
    folder.mkdir()
    packed = (STORED / folder.name / "run.sqlite.gz").read_bytes()
    Store.path(folder).write_bytes(gzip.decompress(packed))
    return folder


def printed(folder: Path, name: str) -> str:
    """What 0.2.2 printed of the run."""
    return (STORED / folder.name / name).read_text("utf-8")


def test_show_prints_the_same_figures(old: Path, cli: Cli) -> None:
    shown = cli("show", old)
    assert shown.returncode == 0, shown.stderr
    figures = re.compile(r"\d+(?:\.\d+)?")
    said = [line for line in shown.stdout.splitlines() if not line.startswith(SINCE)]
    assert figures.findall("\n".join(said)) == figures.findall(printed(old, "show.txt"))


def test_show_prints_the_same_json(old: Path, cli: Cli) -> None:
    found, expected = (
        json.loads(cli("show", old, "--json").stdout),
        json.loads(printed(old, "show.json")),
    )
    assert found["run"].pop("folder") == str(old)
    del expected["run"]["folder"]
    rows = [*found["baselines"], found["best"], *found["candidates"]]
    roles = [row.pop("role") for row in rows]  # which 0.2.2 said in the label alone
    assert set(roles) >= {"base", "source", "average", None}
    assert found.pop("starts") == {}
    of_baselines = {row["digest"] for row in found["baselines"]}
    others = {row["digest"] for row in found["candidates"]} - of_baselines
    assert found.pop("choice")["among"] == len(others)
    assert {found.pop("racing"), *(row.pop("part") for row in rows)} == {None}
    assert {row.pop("shortfall") for row in rows} <= {0.0, None}
    assert found == expected


def test_export_writes_the_same_recipe(old: Path, cli: Cli) -> None:
    assert cli("export", old).stdout == printed(old, "recipe.yaml")


def test_export_for_mergekit_says_which_models_are_gone(old: Path, cli: Cli) -> None:
    done = cli("export", old, "--format", "mergekit")
    assert done.returncode == 2
    assert "/models/arithmetic: no such folder" in done.stderr


def test_lineage_prints_the_same_json(old: Path, cli: Cli) -> None:
    found = json.loads(cli("lineage", old, "--json").stdout)
    assert found == json.loads(printed(old, "lineage.json"))


def test_resume_refuses_with_the_reason(old: Path, cli: Cli) -> None:
    done = cli("resume", old)
    assert done.returncode == 2
    assert "Go on with evomerge 0.2.2, or begin a new run" in done.stderr


def test_no_command_changes_the_file_of_an_older_version(old: Path, cli: Cli) -> None:
    before = Store.path(old).read_bytes()
    for words in (("show", old), ("export", old), ("lineage", old), ("resume", old)):
        cli(*words)
    assert Store.path(old).read_bytes() == before


def test_baselines_have_their_roles(old: Path) -> None:
    with Store.open(old, read_only=True) as store:
        roles = [c.role for c in store.candidates() if c.kind == "baseline"]
    sources, last = (2, ["paper_defaults"]) if old.name == "cmaes" else (3, [])
    assert roles == ["base", *["source"] * sources, "average", *last]
