"""What a run that raced says: what was asked, how well that ranked, and what one candidate got."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from evomerge.analysis.racing import RacingSummary
from evomerge.analysis.ranking import Ranking, rankings
from evomerge.analysis.run import Run
from evomerge.config.load import load
from evomerge.recipes import Recipe
from evomerge.reports.racing import raced
from evomerge.search.racing.reliability import Variances, variances
from evomerge.search.run import start
from evomerge.store.records import Event
from evomerge.types import Candidate, Evaluation, Genome, TaskScores

Cli = Callable[..., Any]
CODE = """
import torch

def chances(module, split, examples=None):
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(40, 6, generator=generator)
    wanted = torch.randint(4, (40,), generator=generator)
    scores = module(inputs).softmax(1)[torch.arange(40), wanted]
    return scores if examples is None else scores[examples]
"""


@pytest.fixture(scope="module")
def folder(layers: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four cohorts of eight, of 40 examples."""
    folder = tmp_path_factory.mktemp("raced")
    (folder / "scorers.py").write_text(CODE)
    content = {
        **layers,
        "name": "small",
        "space": "task_arithmetic",
        "fitness": {"tasks": {"x": {"scorer": f"{folder}/scorers.py:chances"}}},
        "optimizer": {"name": "cmaes", "population_size": 8},
        "start": "initial",
        "racing": {"first": 4},
        "budget": {"evaluations": 32},
    }
    start(load(content).search, folder / "run", lambda progress: None)
    return folder / "run"


def test_a_run_says_what_racing_asked_and_what_all_would_have_been(folder: Path, cli: Cli) -> None:
    summary = Run.open(folder).racing
    assert summary is not None
    assert (summary.examples, summary.in_full) == (4 * (8 * 4 + 4 * 4 + 2 * 8), 32 * 40)
    assert dict(summary.candidates) == {4: 16, 8: 8, 16: 8}
    shown = cli("show", folder).stdout
    assert (
        "raced: 256 examples asked of 32 candidates (4 of 16, 8 of 8, 16 of 8), 5.0 times fewer "
        "than all 40 of each\n"
    ) in shown
    assert re.search(
        r"^ranking by 4 examples: reliability 0\.\d\d \(0\.\d\d in the first third of the cohorts",
        shown,
        re.MULTILINE,
    )
    assert "left of the budget" not in shown
    asked = json.loads(cli("show", folder, "--json").stdout)["racing"]
    assert asked["candidates"] == {"4": 16, "8": 8, "16": 8}
    assert (asked["ranking"][""]["cohorts"], asked["ranking"][""]["first"]) == (4, 4)


def test_a_raced_candidate_is_shown_with_how_many_examples_it_was_asked(
    folder: Path, cli: Cli
) -> None:
    run = Run.open(folder)
    row = next(row for row in run.rows if row.status == "raced")
    assert row.part is not None
    said = rf"0\.\d\d\d ± 0\.\d\d\d \({row.part.examples} of 40\)"
    shown = cli("show", folder, "--candidate", row.number).stdout
    assert re.fullmatch(rf"candidate {row.number}, raced\nsearch      {said}, x \d\d\.\d%\n", shown)
    tree, *_ = cli("lineage", folder, "--candidate", row.number).stdout.splitlines()
    assert re.fullmatch(rf"{row.number}  {said}", tree)
    found = json.loads(cli("show", folder, "--candidate", row.number, "--json").stdout)
    assert (found["value"], found["part"]["examples"]) == (None, row.part.examples)
    best = cli("show", folder, "--candidate", "best").stdout
    assert best.startswith(f"final estimate {len(run.rows) - 1}: average of the late means, done\n")
    assert "(" not in best  # it was asked everything
    assert cli("show", folder, "--candidate", "99").returncode == 2


def made(rows: Mapping[int, tuple[float, ...]]) -> Mapping[int, Evaluation]:
    """Number to an evaluation on as many examples as there are scores."""
    return {
        n: Evaluation("done", {"x": TaskScores(sum(row) / len(row), tuple(range(len(row))), row)})
        for n, row in rows.items()
    }


def ranked(rows: Mapping[int, tuple[float, ...]], size: int, **keys: Any) -> Ranking | None:
    """How well cohorts of so many candidates were ranked that scored this."""
    candidates = [
        Candidate(
            number=n,
            kind="search",
            genome=Genome({}),
            recipe=Recipe(
                base="b",
                sources={"a": "a"},
                operator="linear",
                parameters={"weight": n},
                dtype="float32",
            ),
            **keys,
        )
        for n in rows
    ]
    told = [Event("tell", n, float(n // size)) for n in rows]
    asked = {candidates[n].recipe.digest: one for n, one in made(rows).items()}
    return rankings(candidates, told, asked, {}).get("")


FIRST = ((1.0, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 1.0))
SECOND = ((1.0, 1.0, 1.0, 0.0, 1.0), (0.0, 0.0, 0.0, 0.0, 1.0), (0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


def test_a_cohort_is_ranked_by_the_examples_that_all_of_it_were_asked() -> None:
    found = ranked(dict(enumerate(FIRST)), 3)
    expected = variances([row[:4] for row in FIRST])
    assert found is not None and expected is not None
    assert (found.cohorts, found.first, found.in_first_third, found.raised) == (1, 4, None, {})
    assert found.reliability == pytest.approx(expected.reliability(4))


def test_reliability_is_compared_between_the_first_and_the_last_third() -> None:
    found = ranked(dict(enumerate((*FIRST, *SECOND, *SECOND))), 3)
    early, late = variances([row[:4] for row in FIRST]), variances([row[:5] for row in SECOND])
    assert found is not None and early is not None and late is not None
    assert (found.cohorts, found.first, found.raised) == (3, 5, {2: 5})
    assert found.reliability == pytest.approx(late.reliability(5))
    assert found.in_first_third == pytest.approx(early.reliability(5))
    assert found.for_half == pytest.approx(late.noise / late.signal, abs=1)


def test_candidates_that_differ_by_chance_alone_are_ranked_by_no_number_of_examples() -> None:
    assert Variances(-0.1, 0.2).reliability(40) == 0.0
    found = ranked({0: (1.0, 0.0), 1: (0.0, 1.0)}, 2)
    assert found is not None
    assert (found.reliability, found.for_half) == (0.0, None)


def test_starts_are_no_cohort_of_the_optimizer() -> None:
    assert ranked(dict(enumerate(FIRST)), 3, label="initial") is None


def test_a_first_rung_that_ranks_well_or_was_raised_is_told() -> None:
    ranking = Ranking(
        cohorts=9, first=80, reliability=0.6, in_first_third=0.4, for_half=53, raised={4: 80}
    )
    summary = RacingSummary(
        examples=1000,
        in_full=4000,
        tokens=1234,
        tokens_in_full=4936,
        all_examples=100,
        candidates={40: 20, 100: 2},
        ranking={"": ranking, "second": ranking},
    )
    assert raced(summary) == [
        "raced: 1,000 examples asked of 22 candidates (40 of 20, all of 2), 4.0 times fewer than "
        "all 100 of each",
        "raced: 1,234 tokens generated, about 4,936 for all of each",
        *(
            f"{stage}{line}"
            for stage in ("", "second: ")
            for line in (
                "ranking by 80 examples: reliability 0.60 (0.40 in the first third of the "
                "cohorts); 53 would have 0.5",
                "from cohort 4 on, 80 were asked at first: fewer hardly ranked at all",
                "racing.first could be smaller, such as 53",
            )
        ),
    ]
