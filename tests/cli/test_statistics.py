"""`evomerge statistics` as a person types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.statistics import open_statistics

Cli = Callable[..., Any]


def test_statistics_of_a_zoo_model_are_written_and_printed(
    cli: Cli, zoo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("--kind", "gram", "--fitness", "zoo_skills", "--task", "strings", "--examples", 500)
    done = cli("statistics", zoo / "strings", *words, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["folder"] == str(out)
    assert printed["tensors"] == 4 * 4 + 1
    assert "500 examples were asked for" in done.stderr
    found = open_statistics(out, kind="gram", of=Checkpoint(zoo / "strings"))
    assert printed["manifest"] == found.manifest.model_dump(exclude_none=True)


def test_wrong_input_exits_with_2_and_writes_nothing(cli: Cli, zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = cli(
        "statistics", zoo / "strings", "--kind", "fisher", "--text", "nowhere.txt", "-o", out
    )
    assert done.returncode == 2
    assert "nowhere.txt: no such file" in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []
