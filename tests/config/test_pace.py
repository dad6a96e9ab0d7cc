"""What `evomerge check` says of how often an optimizer learns, and of what costs the time."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from small_search import SMALL, skills

from evomerge.config.estimate import estimate
from evomerge.config.load import LoadedSearch, load
from evomerge.config.pace import Pace, pace
from evomerge.config.probe import Timed, merge_advice
from evomerge.optimizers.cmaes import Cmaes
from evomerge.optimizers.random import Random
from evomerge.search.budget import Budget
from evomerge.search.racing.settings import Racing
from evomerge.search.spec import Stage

ALL = 160  # examples
COHORT = 24 * 40 + 12 * 40 + 6 * 80
MOST = 24 * 40 + 15 * 40 + 11 * 80  # where three more tie across each cut and are let through
CONTENT: dict[str, Any] = SMALL | {
    "fitness": skills(search_examples=ALL // 2, held_out_examples=8),
    "optimizer": "cmaes",
    "start": "initial",
    "racing": {},
    "budget": {"evaluations": 100},
}


@pytest.fixture(scope="module")
def loaded() -> LoadedSearch:
    """A search that races, from the initial point."""
    return load(CONTENT)


def stage(loaded: LoadedSearch, size: int = 24, **changes: Any) -> Stage:
    """The stage of the search, with another population or other settings."""

    def optimizer(parameters: Any) -> Cmaes:
        return Cmaes(parameters, 0, population_size=size)

    return replace(loaded.search.stages[0], new_optimizer=optimizer, **changes)


def paced(loaded: LoadedSearch, size: int = 24, **changes: Any) -> Pace:
    found = pace(stage(loaded, size, **changes), loaded.file.fitness)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> LoadedSearch:
    """The same on a scorer of one's own: how many examples it has, nobody knows before a run."""
    code = tmp_path_factory.mktemp("pace") / "scorers.py"
    code.write_text("def chances(module, split, examples=None):\n    return [1.0]\n")
    return load(CONTENT | {"fitness": {"tasks": {"x": {"scorer": f"{code}:chances"}}}})


@pytest.mark.parametrize(
    ("limits", "cohorts"),
    [
        ({"evaluations": 8 * 24 + 23}, 8),
        ({"examples": MOST + ALL - 1}, 0),
        ({"examples": MOST + ALL}, 1),
        ({"examples": MOST + 4 * COHORT + ALL - 1}, 4),
        ({"examples": MOST + 4 * COHORT + ALL}, 5),
        ({"examples": MOST + 30 * COHORT + 4 * ALL}, 31),  # four that are asked everything
        ({"examples": 10**6, "evaluations": 48}, 2),
        ({"tokens": 10**6}, None),
        ({"seconds": 60}, None),
    ],
)
def test_a_cohort_begins_where_the_budget_reaches_for_all_of_it_and_the_final_estimates(
    limits: dict[str, int], cohorts: int | None, loaded: LoadedSearch
) -> None:
    assert paced(loaded).times(Budget(**limits), 24) == cohorts


def test_check_says_what_a_cohort_is_asked_and_how_often(loaded: LoadedSearch) -> None:
    assert paced(loaded, budget=Budget(evaluations=240)).facts() == {
        "racing": {
            "candidates_a_cohort": 24,
            "examples_a_cohort": COHORT,
            "examples_a_candidate": 80,
            "cohorts_for_the_budget": 10,
        }
    }
    facts = estimate(loaded)
    assert facts["racing"]["cohorts_for_the_budget"] == 4
    assert facts["notes"] == [
        "4 cohorts for the budget, and in fewer than 8 an optimizer hardly leaves its start: "
        "budget.evaluations 192 are enough, or optimizer.population_size 12. Fewer genes than 2 "
        "are found sooner, too."
    ]


def test_check_says_what_a_generation_is_asked_and_how_often(loaded: LoadedSearch) -> None:
    assert paced(loaded, racing=None, budget=Budget(seconds=60)).facts() == {
        "generations": {
            "candidates_a_generation": 24,
            "examples_a_generation": 24 * ALL,
            "examples_a_candidate": ALL,
            "generations_for_the_budget": "as many as the time allows",
        }
    }


@pytest.mark.parametrize(
    ("limits", "generations"),
    [
        ({"examples": 5000}, "as many as the examples allow"),
        ({"examples": 5000, "tokens": 9, "seconds": 60}, "as many as the time and tokens and"),
        ({"tokens": 5000}, "as many as the tokens allow"),
        ({"gpu_hours": 1, "seconds": 60}, "as many as the time allows"),
    ],
)
def test_of_a_limit_whose_cost_is_unknown_check_says_that_it_decides(
    limits: dict[str, int], generations: str, scored: LoadedSearch
) -> None:
    one = paced(scored, racing=None, budget=Budget(**limits))
    assert one.facts()["generations"]["generations_for_the_budget"].startswith(generations)
    assert one.advice() == []


def test_only_limits_whose_cost_is_known_are_told_with_what_is_enough(scored: LoadedSearch) -> None:
    (note,) = paced(scored, racing=None, budget=Budget(evaluations=40, examples=5000)).advice()
    assert note.startswith("1 generation for the budget, and in fewer than 8 an optimizer hardly")
    assert "leaves its start: budget.evaluations 192 are enough. Fewer genes" in note


def test_how_many_examples_starts_are_asked_only_their_scorers_know(scored: LoadedSearch) -> None:
    facts = paced(scored, informed=True, budget=Budget(evaluations=240)).facts()
    assert facts["starts"]["examples"] == "as many as its scorers say"
    assert facts["racing"]["examples_a_cohort"] == COHORT


def test_an_optimizer_that_learns_from_every_value_has_cohorts_only_where_it_races(
    loaded: LoadedSearch,
) -> None:
    def optimizer(parameters: Any) -> Random:
        return Random(parameters, 0)

    (one,) = loaded.search.stages
    raced = replace(one, new_optimizer=optimizer)
    found = pace(raced, loaded.file.fitness)
    assert found is not None
    (note,) = found.advice()
    assert "population_size" not in note
    assert pace(replace(raced, racing=None), loaded.file.fitness) is None


def test_starts_come_before_the_first_cohort(loaded: LoadedSearch) -> None:
    one = paced(loaded, informed=True, budget=Budget(evaluations=240))
    points = len(loaded.search.stages[0].space.starts(("arithmetic", "strings")))
    facts = one.facts()
    assert facts["starts"] == {"points": points, "examples": one.cost(points)}  # all on the last
    assert facts["racing"]["cohorts_for_the_budget"] == (240 - points) // 24
    racing = Racing(first=8)
    deep, timed = (
        paced(loaded, racing=racing, informed=True, budget=budget).facts()["starts"]
        for budget in (Budget(evaluations=240), Budget(seconds=60))
    )
    cohort = racing.of_cohort(points, [8, 16, 32])
    assert timed == {"points": points, "examples": cohort}  # what examples take nobody knows
    assert deep["examples"] > cohort
    few = paced(loaded, racing=None, informed=True, budget=Budget(evaluations=8)).facts()
    assert few["starts"] == {"points": 2, "examples": 2 * ALL}  # a quarter of the budget


@pytest.mark.parametrize("racing", [Racing(), None])
@pytest.mark.parametrize("informed", [False, True])
@pytest.mark.parametrize("key", ["evaluations", "examples"])
def test_a_budget_that_is_too_small_is_told_with_what_is_enough(
    racing: Racing | None, informed: bool, key: str, loaded: LoadedSearch
) -> None:
    def advice(limit: int, size: int = 24) -> list[str]:
        limited = {"racing": racing, "informed": informed, "budget": Budget(**{key: limit})}
        return paced(loaded, size, **limited).advice()

    limit = {"evaluations": 100, "examples": 7_000 if racing else 20_000}[key]
    (note,) = advice(limit)
    found = re.search(rf": budget\.{key} ([\d,]+) are enough, or optimizer\.\w+ (\d+)\. ", note)
    assert found is not None, note
    enough, size = int(found[1].replace(",", "")), int(found[2])
    assert advice(enough) == advice(limit, size) == []
    assert advice(enough - 1)
    assert advice(limit, size + 1)


def test_a_budget_that_no_generation_fits_teaches_nothing(loaded: LoadedSearch) -> None:
    (note,) = paced(loaded, racing=None, budget=Budget(evaluations=23)).advice()
    assert note.startswith(
        "no generation of 24 fits the budget, and the optimizer learns nothing: budget.evaluations "
        "192 are enough. Fewer genes"
    )


def test_no_population_is_proposed_that_is_too_small_to_learn_from(loaded: LoadedSearch) -> None:
    (note,) = paced(loaded, name="two", budget=Budget(evaluations=50)).advice()
    assert note.startswith("stage two: 2 cohorts for the budget, and in fewer than 8 an optimizer")
    assert "population_size" not in note
    assert "budget.evaluations 192 are enough. Fewer genes" in note


def test_a_candidate_of_a_race_takes_several_merges_and_a_part_of_the_examples(
    loaded: LoadedSearch,
) -> None:
    timed = Timed(merge=2.0, asking=16.0, examples=ALL)
    assert timed.of_candidate(None) == 18.0
    assert timed.of_candidate(paced(loaded)) == pytest.approx(1.75 * 2 + 80 * 0.1)
    assert timed.of_candidate(paced(loaded, racing=None)) == 18.0


def test_a_merge_that_takes_longer_than_the_first_examples_is_told_with_what_is_better(
    loaded: LoadedSearch,
) -> None:
    (one,) = loaded.search.stages
    assert merge_advice(one, Timed(4.0, 16.0, ALL)) == []
    assert merge_advice(one, Timed(4.1, 16.0, ALL)) == [
        "a merge takes as long as 41 examples, and racing asks 40 after it: racing.first 41 makes "
        "both cost the same."
    ]
    (note,) = merge_advice(one, Timed(9.0, 16.0, ALL))
    assert note.endswith("of 160 examples racing saves little time then: set racing: false.")
    assert merge_advice(replace(one, racing=None), Timed(9.0, 16.0, ALL)) == []


def test_check_times_merges_and_examples_of_a_race_when_both_are_warm(loaded: LoadedSearch) -> None:
    facts = estimate(loaded, probe=True)
    merge, example = facts["seconds_per_merge"], facts["seconds_per_example"]
    assert facts["seconds_per_candidate"] == pytest.approx(1.75 * merge + 80 * example, rel=0.01)
    assert facts["candidates_for_the_budget"] == 100
