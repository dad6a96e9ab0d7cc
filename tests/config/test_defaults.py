"""Whether a search races and where it starts, where its YAML does not say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from small_search import SMALL, skills

from evomerge.config.estimate import estimate
from evomerge.config.load import LoadedSearch, load
from evomerge.errors import ConfigError
from evomerge.search.racing.settings import Racing
from evomerge.yaml_files import parse_yaml

SCORERS = """
def by_example(module, split, examples=None):
    return [1.0] * (500 if examples is None else len(examples))

def whole(module, split):
    return [1.0] * 500
"""
FOUR = {"task": "zoo_kanji", "search_examples": 4}
P = 24


def tasks(
    arithmetic: int = 80, strings: int = 80, others: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A fitness with so many search examples, and other tasks."""
    fitness = skills(others)
    for name, examples in (("arithmetic", arithmetic), ("strings", strings)):
        unseen = {"search_examples": examples, "held_out": f"zoo_{name}_held_out"}
        fitness["tasks"][name].update(unseen)
    return fitness


def loaded(**changes: Any) -> LoadedSearch:
    content: dict[str, Any] = SMALL | {
        "fitness": tasks(),
        "optimizer": "cmaes",
        "budget": {"evaluations": 8 + 2 * P},
    }
    return load({key: value for key, value in (content | changes).items() if value is not None})


def recorded(one: LoadedSearch) -> dict[str, Any]:
    return parse_yaml(one.search.record.search_yaml, "run")


def test_a_search_of_many_examples_races_and_tries_starts() -> None:
    one = loaded()
    (stage,) = one.search.stages
    assert (stage.racing, stage.informed) == (Racing(), True)
    assert recorded(one)["racing"] == {"first": 40, "rungs": 3, "keep": 0.5}
    assert recorded(one)["start"] == ["auto"]
    assert estimate(one)["racing"]["cohorts_for_the_budget"] == 2  # after the starts


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"fitness": tasks(arithmetic=79)},
            "159 search examples are fewer than 160.",
        ),
        (
            {"budget": {"evaluations": 8 + 2 * P - 1}},
            "2 cohorts take 56 evaluations, the budget has 55.",
        ),
        (
            # two starts; 24 x 40, 12 and 3 that tie x 40, 8 and 3 x 80: twice; an estimate
            {"budget": {"examples": 5159}},
            "2 cohorts take 5160 examples, the budget has 5159.",
        ),
        ({"optimizer": "random"}, "the optimizer random learns from values, and races only where"),
        (
            {"fitness": tasks(others={f"t{n}": FOUR for n in range(39)})},
            "40 examples are fewer than the 41 tasks.",
        ),
    ],
)
def test_a_search_that_would_not_gain_does_not_race_and_says_why(
    changes: dict[str, Any], reason: str
) -> None:
    one = loaded(**changes)
    (stage,) = one.search.stages
    assert stage.racing is None
    assert estimate(one)["racing"].startswith(f"off: {reason}")
    assert recorded(one)["racing"] is False


@pytest.mark.parametrize("budget", [{"examples": 5160}, {"seconds": 1}, {"tokens": 1}])
def test_other_budgets_race_as_soon_as_they_reach_for_two_cohorts(budget: dict[str, int]) -> None:
    assert loaded(budget=budget).search.stages[0].racing == Racing()


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("by_example", "how many examples a scorer has is not known before the run."),
        ("whole", "tasks.x: its scorer takes no `examples`."),
    ],
)
def test_a_scorer_races_only_where_the_search_says_so(
    function: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "scorers.py").write_text(SCORERS)
    fitness = tasks(others={"x": {"scorer": f"{tmp_path}/scorers.py:{function}"}})
    (stage,) = loaded(fitness=fitness).search.stages
    assert (stage.racing, stage.not_raced) == (None, reason)
    if function == "by_example":
        assert loaded(fitness=fitness, racing={}).search.stages[0].racing == Racing()


def test_what_a_search_says_is_done_and_recorded() -> None:
    one = loaded(racing=False, start="initial")
    (stage,) = one.search.stages
    assert (stage.racing, stage.informed, stage.not_raced) == (None, False, "")
    assert (recorded(one)["racing"], recorded(one)["start"]) == (False, ["initial"])
    assert estimate(one)["racing"] == "off"
    written = loaded(racing={"first": 8}, fitness=tasks(20, 20), budget={"evaluations": 8 + P})
    assert written.search.stages[0].racing == Racing(first=8)


@pytest.mark.parametrize(
    ("limits", "start"),
    [({"examples": 1500}, "initial"), ({"examples": 1500}, "auto"), ({"evaluations": P}, "auto")],
)
def test_a_written_racing_whose_budget_reaches_for_no_cohort_is_told_what_is_enough(
    limits: dict[str, int], start: str
) -> None:
    ((key, limit),) = limits.items()
    expected = rf"budget\.{key}: {limit} are too few for one cohort\. .* it takes (\d+)\."
    with pytest.raises(ConfigError, match=expected) as raised:
        loaded(racing={}, start=start, budget=limits)
    found = re.search(expected, str(raised.value))
    assert found is not None
    one = loaded(racing={}, start=start, budget={key: int(found[1])})
    assert estimate(one)["racing"]["cohorts_for_the_budget"] == 1


@pytest.mark.parametrize("optimizer", ["random", "optuna"])
def test_a_start_for_an_optimizer_that_takes_none_is_refused(optimizer: str) -> None:
    expected = rf"start: {optimizer} begins at no point\. Take optimizer: cmaes, or remove this key"
    with pytest.raises(ConfigError, match=expected):
        loaded(optimizer=optimizer, start="auto")
    one = loaded(optimizer=optimizer)
    assert (one.search.stages[0].informed, recorded(one)["start"]) == (False, ["initial"])
    assert loaded(optimizer=optimizer, start="initial").file == one.file


def test_every_stage_has_defaults_of_its_own_and_they_are_recorded() -> None:
    space = loaded().file.space
    stages = [
        {"name": "some", "space": space, "budget": {"evaluations": 8 + 2 * P}},
        {"name": "few", "space": space, "budget": {"evaluations": P}, "start": "initial"},
        {"name": "all", "space": space, "budget": {"evaluations": 4}, "optimizer": "random"},
    ]
    one = loaded(stages=stages, space=None, optimizer=None, budget=None)
    assert [stage.racing for stage in one.search.stages] == [Racing(), None, None]
    found = [(keys["start"], keys["racing"]) for keys in recorded(one)["stages"]]
    usual = {"first": 40, "rungs": 3, "keep": 0.5}
    assert found == [(["auto"], usual), (["initial"], False), (["initial"], False)]
    assert not {"start", "racing"} & recorded(one).keys()


def test_a_recorded_search_does_the_same_again() -> None:
    first = loaded()
    again = load(recorded(first))
    assert recorded(again) == recorded(first)
    assert again.search.stages[0].racing == first.search.stages[0].racing
