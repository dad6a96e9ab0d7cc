"""What a run that raced says: what was asked, how well that ranked, and what one candidate got."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from evomerge.analysis.racing import RacingSummary, by_recipe, summary
from evomerge.analysis.ranking import Ranking, rankings
from evomerge.analysis.run import Run
from evomerge.config.load import load
from evomerge.recipes import Recipe
from evomerge.reports.racing import raced
from evomerge.search.racing.reliability import Variances, variances
from evomerge.search.run import start
from evomerge.store.records import Event, PortionRecord
from evomerge.types import FINAL_ESTIMATE, Candidate, Evaluation, Genome, Kind, TaskScores

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


def recipe_of(weight: float) -> Recipe:
    parameters = {"weight": weight}
    return Recipe(
        base="b", sources={"a": "a"}, operator="linear", parameters=parameters, dtype="float32"
    )


def candidate(number: int, weight: float, kind: Kind = "search", label: str = "") -> Candidate:
    recipe = recipe_of(weight)
    return Candidate(number=number, kind=kind, genome=Genome({}), recipe=recipe, label=label)


Row = tuple[float, ...]  # scores on examples 0, 1, ...
FEW: tuple[Row, ...] = ((1.0, 0.0, 1.0, 1.0), (0.0, 0.0, 1.0, 0.0), (1.0, 0.0, 0.0, 0.0))
MORE: tuple[Row, ...] = (
    (1.0, 1.0, 1.0, 0.0, 1.0),
    (0.0, 0.0, 0.0, 0.0, 1.0),
    (0.0, 1.0, 0.0, 0.0, 0.0),
)


def told(cohorts: Sequence[Sequence[tuple[int, Row]]], **keys: Any) -> Ranking | None:
    """How well cohorts were ranked, each of recipes with what they scored on its first rung.

    A score beyond these examples is of a later rung. A recipe without scores failed. Every cohort
    has examples of its own.
    """
    candidates: list[Candidate] = []
    events: list[Event] = []
    portions: dict[str, list[PortionRecord]] = {}
    for number, cohort in enumerate(cohorts):
        first = min(len(row) for _, row in cohort if row)
        for weight, row in cohort:
            one, recipe = candidate(len(candidates), weight, **keys), recipe_of(weight)
            candidates.append(one)
            events.append(Event("tell", one.number, float(number)))
            for begin, end in ((0, first), (first, len(row))):
                scores = {100 * number + e: row[e] for e in range(begin, min(end, len(row)))}
                known = portions.setdefault(recipe.digest, [])
                if scores and all(scores.keys() != other.cells["x"].keys() for other in known):
                    known.append(PortionRecord(recipe.digest, {"x": scores}, 0, float(number)))
    return rankings(candidates, events, portions, {}).get("")


def ranked(*cohorts: Sequence[Row], **keys: Any) -> Ranking | None:
    """The same of recipes that are all different."""
    return told(
        [[(10 * n + m, row) for m, row in enumerate(c)] for n, c in enumerate(cohorts)], **keys
    )


def test_a_cohort_is_ranked_by_the_examples_of_its_first_rung() -> None:
    found = ranked([FEW[0], FEW[1], (*FEW[2], 1.0, 1.0)])
    expected = variances(FEW)
    assert found is not None and expected is not None
    assert (found.cohorts, found.first, found.in_first_third, found.raised) == (1, 4, None, {})
    assert found.reliability == pytest.approx(expected.reliability(4))


def test_reliability_is_compared_between_the_first_and_the_last_third() -> None:
    found = ranked(FEW, MORE, MORE)
    early, late = variances(FEW), variances(MORE)
    assert found is not None and early is not None and late is not None
    assert (found.cohorts, found.first, found.raised) == (3, 5, {2: 5})
    assert found.reliability == pytest.approx(late.reliability(5))
    assert found.in_first_third == pytest.approx(early.reliability(5))
    assert found.for_half == pytest.approx(late.noise / late.signal, abs=1)


def test_two_candidates_of_one_recipe_are_one_opinion() -> None:
    once, twice = ranked(FEW), told([[(0, FEW[0]), (1, FEW[1]), (0, FEW[0]), (2, FEW[2])]])
    assert once is not None and twice == once
    assert told([[(0, FEW[0]), (0, FEW[0])]]) is None


def test_a_recipe_that_comes_again_is_ranked_by_what_its_cohort_was_asked() -> None:
    """Not by what both were asked before, and not by nothing where it failed in between."""
    before = [(0, FEW[0]), (1, FEW[1])]
    for again in (MORE[0], ()):
        found = told([before, [(0, again), (1, MORE[1]), (2, MORE[2])]])
        one, other = variances(FEW[:2]), variances(MORE if again else MORE[1:])
        assert found is not None and one is not None and other is not None
        assert (found.cohorts, found.first, found.raised) == (2, 5, {2: 5})
        pooled = Variances(*(sum(pair) / 2 for pair in zip(one, other, strict=True)))
        assert found.reliability == pytest.approx(pooled.reliability(5))


def test_cohorts_of_which_nothing_is_new_are_counted_and_tell_nothing() -> None:
    before = [(0, FEW[0]), (1, FEW[1])]
    found = told([before, [(0, MORE[0]), (1, MORE[1])], [(2, MORE[0]), (3, MORE[1])]])
    assert found is not None
    assert (found.cohorts, found.first, found.raised) == (3, 5, {3: 5})


def test_candidates_that_differ_by_chance_alone_are_ranked_by_no_number_of_examples() -> None:
    assert Variances(-0.1, 0.2).reliability(40) == 0.0
    found = ranked([(1.0, 0.0), (0.0, 1.0)])
    assert found is not None
    assert (found.reliability, found.for_half) == (0.0, None)


def test_starts_are_no_cohort_of_the_optimizer() -> None:
    assert ranked(FEW, label="initial") is None


def test_what_only_the_final_estimate_was_asked_of_a_recipe_is_not_counted() -> None:
    """Its recipe raced before: the rest of the examples is asked of the estimate."""
    candidates = [
        candidate(0, 0, "baseline"),
        candidate(1, 1),
        candidate(2, 2),
        candidate(3, 2, FINAL_ESTIMATE),
    ]
    events = [Event("ask", one.number, float(one.number)) for one in candidates]

    def portion(weight: int, examples: range, seconds: float) -> PortionRecord:
        cells = {"x": dict.fromkeys(examples, 0.5)}
        return PortionRecord(recipe_of(weight).digest, cells, 10 * len(examples), seconds)

    portions = [portion(1, range(4), 2.5), portion(2, range(4), 2.7), portion(2, range(4, 8), 2.8)]
    last = portion(2, range(8, 40), 3.5)
    whole = Evaluation("done", {"x": TaskScores(0.5, tuple(range(40)), (0.5,) * 40)})
    found = summary(candidates, events, by_recipe([*portions, last]), {0: whole})
    assert found is not None
    assert found == summary(candidates, events, by_recipe(portions), {0: whole})
    assert (found.examples, found.in_full, found.tokens) == (4 + 8, 2 * 40, 120)
    assert found.candidates == {4: 1, 8: 1}


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
