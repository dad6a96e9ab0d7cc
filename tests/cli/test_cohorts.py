"""What `evomerge run` says while a search races."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

Cli = Callable[..., Any]
CODE = """
import torch

def chances(module, split, examples=None):
    inputs = torch.linspace(-2, 2, 240).reshape(40, 6)
    scores = module(inputs).softmax(1)[:, 0]
    return scores if examples is None else scores[examples]
"""


def test_a_search_prints_a_line_for_each_cohort_and_none_again(
    layers: dict[str, Any], tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "scorers.py").write_text(CODE)
    content = {
        **layers,
        "name": "small",
        "space": "task_arithmetic",
        "fitness": {"tasks": {"x": {"scorer": str(tmp_path / "scorers.py:chances")}}},
        "optimizer": {"name": "cmaes", "population_size": 8},
        "start": "auto",
        "racing": {"first": 4},
        "budget": {"evaluations": 24},
    }
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(content))
    done = cli("run", tmp_path / "search.yaml", "--run", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    note, starts, chosen, *cohorts = [line for line in done.stderr.splitlines() if "━" not in line]
    assert note == (
        "note: 2 cohorts for the budget, and in fewer than 8 an optimizer hardly leaves its start: "
        "budget.evaluations 77 are enough. Fewer genes than 3 are found sooner, too."
    )
    assert f"\n{note}\n" in cli("check", tmp_path / "search.yaml").stdout
    assert re.fullmatch(r"the search starts from: .+", starts)
    assert re.fullmatch(
        r"starts: asked .+ examples so far; reliability by 4 [01]\.\d\d; .+", chosen
    )
    for number, line in enumerate(cohorts, 1):
        assert re.fullmatch(
            rf"cohort {number}: asked 4 of 4, 8 of 2, 16 of 2, \d+ examples so far; "
            r"reliability by 4 [01]\.\d\d; spread 0\.\d\d\d",
            line,
        )
    assert len(cohorts) == 2
    assert "cohort" not in cli("resume", tmp_path / "run").stderr
    assert not logging.getLogger("evomerge.search").handlers
