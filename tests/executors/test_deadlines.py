"""How long a candidate may take, when a worker is started again, and when the run gives up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from evomerge.errors import SearchError
from evomerge.executors._deadlines import Deadlines, StartupRetries
from evomerge.recipes import Recipe
from evomerge.types import Evaluation, Job, Split, TaskScores

BROKEN = SearchError("no place on this machine")
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
    deadlines, one = Deadlines(first_seconds=100, minimum_seconds=3, factor=5), job("search")
    for seconds in (1, 1, 1, 1, 1, 1, 1):
        deadlines.observe(one, Evaluation("done"), seconds)
    assert deadlines.seconds(one) == 100
    deadlines.observe(one, Evaluation("done"), 2)
    assert deadlines.seconds(one) == 5
    for _ in range(200):
        deadlines.observe(one, Evaluation("done"), 0.1)
    assert deadlines.seconds(one) == 3


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


def test_a_deadline_grows_with_the_examples_that_are_asked() -> None:
    deadlines = Deadlines(first_seconds=3600, minimum_seconds=3, factor=5)
    few = replace(job("search"), portion={"x": tuple(range(10))})
    scores = {"x": TaskScores(0.5, tuple(range(10)), (0.5,) * 10)}
    for _ in range(8):  # 1 s of merging, 0.2 s an example
        deadlines.observe(few, Evaluation("done", scores, merge_seconds=1.0), 3.0)
    assert deadlines.seconds(few) == pytest.approx(5 * 3.0)
    assert deadlines.seconds(replace(few, portion={"x": (1, 2), "y": (3,)})) == pytest.approx(8.0)
    assert deadlines.seconds(replace(few, portion={"x": tuple(range(400))})) == pytest.approx(405.0)


def test_candidates_that_fail_at_once_do_not_shorten_the_deadline() -> None:
    deadlines = Deadlines(first_seconds=3600, minimum_seconds=3, factor=5)
    for _ in range(8):
        deadlines.observe(job("search"), Evaluation("failed", error="not finite"), 0.01)
    assert deadlines.seconds(job("search")) == 3600


def fail(retries: StartupRetries, number: int, times: int) -> list[float]:
    return [retries.failed(number, BROKEN) for _ in range(times)]


def test_a_worker_that_was_open_keeps_the_run_going() -> None:
    retries = StartupRetries(workers=2, fatal=3)
    retries.opened(1)
    fail(retries, 0, 50)
    assert retries.fatal_error is None  # worker 1 is open, or being opened again
    fail(retries, 1, 2)
    assert retries.fatal_error is None
    fail(retries, 1, 1)
    assert retries.fatal_error is BROKEN


def test_a_worker_that_opens_clears_its_own_failures_alone() -> None:
    retries = StartupRetries(workers=2, fatal=3)
    fail(retries, 0, 3)
    fail(retries, 1, 2)
    retries.opened(1)
    fail(retries, 1, 2)
    assert retries.fatal_error is None
    fail(retries, 1, 1)
    assert retries.fatal_error is BROKEN


def test_waiting_for_room_is_no_failure() -> None:
    retries = StartupRetries(workers=2, fatal=3)
    retries.waits(0)
    retries.waits(1)
    assert retries.fatal_error is None


def test_where_one_worker_fails_and_the_other_has_no_room_the_run_ends() -> None:
    retries = StartupRetries(workers=2, fatal=3)
    retries.waits(1)
    fail(retries, 0, 2)
    assert retries.fatal_error is None
    retries.has_room(1)  # in the room that the other had
    fail(retries, 0, 1)
    assert retries.fatal_error is None
    retries.waits(1)
    assert retries.fatal_error is BROKEN


def test_each_failure_doubles_the_wait_of_its_worker() -> None:
    retries = StartupRetries(workers=2, fatal=3)
    assert fail(retries, 0, 11) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert fail(retries, 1, 1) == [1]
    assert fail(retries, 0, 2000)[-1] == 300
    retries.opened(0)
    assert fail(retries, 0, 1) == [1]
