"""What `check` accepts of mutated searches, `run` runs, and `show` reads again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora import Stage, make_stage, searches
from mutations import NASTY, TIMES, Mutator, alarm

from evomerge.yaml_files import parse_yaml

SAMPLE = 40
NUMBERS = [word for word in NASTY if len(word) < 30 and any(letter.isdigit() for letter in word)]


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Path], layers: dict[str, Any]
) -> Stage:
    return make_stage(tmp_path_factory.mktemp("fuzz"), tiny, layers)


@pytest.mark.slow
def test_what_check_accepts_runs_and_is_read_again(stage: Stage, cli: Callable[..., Any]) -> None:
    mutator = Mutator(searches(stage), [*NUMBERS, ".inf", ".nan", "true", "~", "''", "[]", "{}"])
    wrong: list[str] = []
    accepted = number = 0
    while accepted < SAMPLE * TIMES:
        number += 1
        case = mutator.case(number)
        (stage.folder / "case.yaml").write_bytes(case)
        if cli("check", "case.yaml", cwd=stage.folder).returncode != 0:
            continue
        accepted += 1
        with alarm(300):
            ended = [cli(*words, cwd=stage.folder) for words in _commands(case)]
        shutil.rmtree(stage.folder / "r", ignore_errors=True)
        for done in ended:
            if done.returncode or "Traceback" in done.stderr:
                wrong.append(f"case {number}: exit {done.returncode}: {done.stderr[-300:]}")
                (stage.folder.parent / f"run-{number}.yaml").write_bytes(case)
    assert not wrong, f"{len(wrong)} of {accepted}:\n" + "\n".join(wrong)


def _commands(case: bytes) -> list[list[str | Path]]:
    keys = parse_yaml(case.decode(), "case")
    short: list[str | Path] = ["--set", "budget={evaluations: 2}"]
    for one in keys.get("stages") or ():
        short += ["--set", f"stages.{one['name']}.budget={{evaluations: 2}}"]
    short = short[2:] if keys.get("stages") else short
    run: list[str | Path] = ["run", "case.yaml", "--run", "r", *short]
    return [run, ["show", "r"], ["export", "r"], ["resume", "r"]]
