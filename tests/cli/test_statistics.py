"""`evomerge statistics` as a person types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.statistics import open_statistics

ROOT = Path(__file__).parents[2]


def statistics(*words: object) -> subprocess.CompletedProcess[str]:
    script = "from evomerge.cli import main; main()"
    command = [sys.executable, "-c", script, "statistics", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)


def test_statistics_of_a_zoo_model_are_written_and_told(zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("--kind", "gram", "--fitness", "zoo_skills", "--task", "strings", "--examples", 500)
    done = statistics(zoo / "strings", *words, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["folder"] == str(out)
    assert told["tensors"] == 4 * 4 + 1
    assert "500 examples were asked for" in done.stderr
    found = open_statistics(out, kind="gram", of=Checkpoint(zoo / "strings"))
    assert told["manifest"] == found.manifest.model_dump()


def test_wrong_input_exits_with_2_and_writes_nothing(zoo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = statistics(zoo / "strings", "--kind", "fisher", "--text", "nowhere.txt", "-o", out)
    assert done.returncode == 2
    assert "nowhere.txt: no such file" in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []
