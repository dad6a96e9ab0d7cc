"""How long a candidate may take."""

from __future__ import annotations

from pathlib import Path

from evomerge.executors._deadline import Deadline, Deadlines
from evomerge.recipes import Recipe
from evomerge.types import Evaluation, Job, Split

ZOO = Path(__file__).parents[2] / "experiments" / "zoo"


def job(split: Split) -> Job:
    recipe = Recipe(
        base=str(ZOO / "base"),
        sources={"arithmetic": str(ZOO / "arithmetic")},
        operator="task_arithmetic",
        parameters={"weight": 0.5},
        dtype="bfloat16",
    )
    return Job(0, recipe, split)


def test_a_deadline_follows_the_times_seen() -> None:
    deadline = Deadline(first_seconds=100, minimum_seconds=3, factor=5)
    for seconds in (1, 1, 1, 1, 1, 1, 1):
        deadline.observe(seconds)
    assert deadline.seconds == 100
    deadline.observe(2)
    assert deadline.seconds == 5
    assert Deadline(1, 3, 5, [0.1] * 8).seconds == 3


def test_held_out_examples_have_a_deadline_of_their_own() -> None:
    deadlines = Deadlines(first_seconds=3600, minimum_seconds=3, factor=5)
    for _ in range(8):
        deadlines.observe(job("search"), Evaluation("done"), 2)
    assert deadlines.seconds(job("search")) == 10
    assert deadlines.seconds(job("held_out")) == 3600
    for _ in range(8):
        deadlines.observe(job("held_out"), Evaluation("done"), 200)
    assert deadlines.seconds(job("held_out")) == 1000
    assert deadlines.seconds(job("search")) == 10


def test_candidates_that_fail_at_once_do_not_shorten_the_deadline() -> None:
    deadlines = Deadlines(first_seconds=3600, minimum_seconds=3, factor=5)
    for _ in range(8):
        deadlines.observe(job("search"), Evaluation("failed", error="not finite"), 0.01)
    assert deadlines.seconds(job("search")) == 3600
