"""When a crew tries a place again, and when it gives up."""

from __future__ import annotations

from evomerge.errors import SearchError
from evomerge.executors._openings import StartupRetries

BROKEN = SearchError("no place on this machine")


def fail(openings: StartupRetries, place: int, times: int) -> list[float]:
    return [openings.failed(place, BROKEN) for _ in range(times)]


def test_a_place_that_was_open_and_lost_its_worker_keeps_the_run_going() -> None:
    openings = StartupRetries(places=2, fatal=3)
    openings.opened(1)
    fail(openings, 0, 50)
    assert openings.verdict is None  # place 1 is open, or being opened again
    fail(openings, 1, 2)
    assert openings.verdict is None
    fail(openings, 1, 1)
    assert openings.verdict is BROKEN


def test_an_opening_takes_back_the_failures_of_its_own_place_alone() -> None:
    openings = StartupRetries(places=2, fatal=3)
    fail(openings, 0, 3)
    fail(openings, 1, 2)
    openings.opened(1)
    fail(openings, 1, 2)
    assert openings.verdict is None
    fail(openings, 1, 1)
    assert openings.verdict is BROKEN


def test_waiting_for_room_is_no_failure() -> None:
    openings = StartupRetries(places=2, fatal=3)
    openings.waits(0)
    openings.waits(1)
    assert openings.verdict is None


def test_where_one_place_fails_and_the_other_has_no_room_the_run_ends() -> None:
    openings = StartupRetries(places=2, fatal=3)
    openings.waits(1)
    fail(openings, 0, 2)
    assert openings.verdict is None
    openings.arrived(1)  # in the room that the other one had
    fail(openings, 0, 1)
    assert openings.verdict is None
    openings.waits(1)
    assert openings.verdict is BROKEN


def test_each_failure_doubles_the_wait_of_its_place() -> None:
    openings = StartupRetries(places=2, fatal=3)
    assert fail(openings, 0, 11) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    assert fail(openings, 1, 1) == [1]
    assert fail(openings, 0, 2000)[-1] == 300
    openings.opened(0)
    assert fail(openings, 0, 1) == [1]
