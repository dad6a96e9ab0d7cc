from __future__ import annotations

import pytest
from pydantic import ValidationError

from evomerge.scoring import Fitness
from evomerge.scoring.objectives import Floor, floor_of

TASKS = {"maths": {"task": "gsm8k"}, "ja": {"task": "mgsm"}}
BOTH = {"maths": {"tasks": ["maths"]}, "depth": {"measure": "layers"}}


def fitness(**keys: object) -> Fitness:
    return Fitness.model_validate({"tasks": TASKS, **keys})


def problems(**keys: object) -> str:
    with pytest.raises(ValidationError) as caught:
        fitness(**keys)
    return str(caught.value)


def test_without_objectives_each_task_is_one() -> None:
    aims = fitness().aims
    assert {name: one.tasks for name, one in aims.items()} == {"maths": ("maths",), "ja": ("ja",)}
    assert not fitness().aim.several


def test_a_measure_is_minimized_and_scores_are_maximized() -> None:
    aims = fitness(objectives=BOTH).aims
    assert (aims["maths"].sign, aims["depth"].sign) == (1, -1)
    assert fitness(objectives=BOTH).aim.several
    most = fitness(objectives={**BOTH, "depth": {"measure": "layers", "goal": "maximize"}})
    assert most.aims["depth"].sign == 1


def test_names_alone_are_tasks_and_measures_by_themselves() -> None:
    aims = fitness(objectives=["maths", "ja", "layers"]).aims
    assert aims["maths"].tasks == ("maths",)
    assert (aims["layers"].measure, aims["layers"].sign) == ("layers", -1)
    assert "Did you mean 'maths'" in problems(objectives=["math", "ja"])
    assert "ja is there twice" in problems(objectives=["ja", "ja"])


@pytest.mark.parametrize(
    ("objectives", "says"),
    [
        ({"maths": {"tasks": ["maths"]}}, "give two or more"),
        ({**BOTH, "x": {"tasks": ["math"]}}, "Did you mean 'maths'"),
        ({**BOTH, "x": {}}, "either tasks or a measure"),
        ({**BOTH, "x": {"tasks": ["ja"], "measure": "layers"}}, "either tasks or a measure"),
        ({**BOTH, "x": {"measure": "layers", "aggregate": "worst"}}, "is for tasks"),
        ({**BOTH, "x": {"tasks": ["ja"], "goal": "minimize"}}, "scores are maximized"),
        ({**BOTH, "x": {"tasks": {"ja": 2}, "aggregate": "worst"}}, "has no weights"),
        ({**BOTH, "x": {"tasks": {"ja": -1}}}, "greater than or equal"),
    ],
)
def test_wrong_objectives_are_refused(objectives: dict[str, object], says: str) -> None:
    assert says in problems(objectives=objectives)


@pytest.mark.parametrize(
    ("text", "floor"),
    [
        (0.5, Floor(0.5, None)),
        (-1, Floor(-1.0, None)),
        ("0.95 * source:ja", Floor(0.95, "ja")),
        ("source:my-model.2", Floor(1.0, "my-model.2")),
        (".5*source:ja", Floor(0.5, "ja")),
    ],
)
def test_a_floor_is_a_number_or_a_share_of_what_a_source_reaches(
    text: float | str, floor: Floor
) -> None:
    assert floor_of(text) == floor


def test_all_wrong_floors_are_told_at_once() -> None:
    said = problems(objectives=BOTH, floor={"depth": 3, "deep": 3})
    assert "is no objective" in said and "is minimized" in said
    assert "expected a number, or 0.95 * source:NAME" in problems(floor={"maths": "half"})


def test_what_is_only_preferred_changes_no_score() -> None:
    assert fitness(objectives=BOTH, floor={"maths": 0.5}).digest == fitness().digest
