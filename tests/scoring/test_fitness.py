"""What a fitness YAML may say, before any task is looked for."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from evomerge.plugins.registry import explain
from evomerge.scoring import Fitness


def problems(tasks: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Fitness.model_validate({"tasks": tasks})
    return [str(problem) for problem in explain(caught.value, Fitness, "fitness")]


def test_a_list_of_names_is_short_for_the_defaults() -> None:
    short, long = ({"tasks": t} for t in (["x", "y"], {"x": {"task": "x"}, "y": {"task": "y"}}))
    assert Fitness.model_validate(short) == Fitness.model_validate(long)


def test_a_list_with_something_else_than_names_is_refused() -> None:
    assert problems(["x", {"task": "y"}]) == [
        "fitness.tasks: expected names of lm-eval tasks, got {'task': 'y'}. "
        "With settings, write name: {task: ...} and no list."
    ]


def test_held_out_examples_of_nothing_are_refused() -> None:
    assert problems({"a": {"task": "x", "held_out_examples": 5}}) == [
        "fitness.tasks.a.held_out_examples: nothing is held out to take them from. "
        "Give it held_out or search_examples."
    ]


@pytest.mark.parametrize(
    "keys",
    [
        {"held_out": "x"},
        {"held_out": "x", "held_out_examples": 3},
        {"held_out": "x", "search_examples": 3},
    ],
)
def test_a_task_cannot_hold_itself_out(keys: dict[str, Any]) -> None:
    assert problems({"a": {"task": "x", **keys}}) == [
        "fitness.tasks.a: holds out examples of x that it searches on. "
        "Name another task in held_out, or give search_examples in its place."
    ]


def test_what_one_task_holds_out_no_other_searches_on() -> None:
    found = problems({"a": {"task": "x", "held_out": "y"}, "b": {"task": "y", "held_out": "z"}})
    assert found == [
        "fitness.tasks.a: holds out examples of y that tasks.b searches on. "
        "Name another task in held_out, or give search_examples in its place."
    ]


@pytest.mark.parametrize("more", [{"search_examples": 20}, {"held_out": "y"}])
def test_two_searches_of_one_task_share_what_they_hold_out(more: dict[str, Any]) -> None:
    found = problems({"a": {"task": "x", "search_examples": 10}, "b": {"task": "x", **more}})
    assert found == [
        "fitness.tasks.a: holds out examples of x that tasks.b searches on. "
        "Give both the search_examples of tasks.a, or name a task in held_out."
    ]


def test_two_entries_with_the_same_draw_are_no_leak() -> None:
    same = {"task": "x", "search_examples": 10}
    Fitness.model_validate({"tasks": {"a": {**same, "metric": "m"}, "b": same}})


def test_every_leak_is_reported_at_once() -> None:
    found = problems({n: {"task": n, "held_out": n} for n in ("x", "y")})
    assert [text.partition(": ")[0] for text in found] == ["fitness.tasks.x", "fitness.tasks.y"]
