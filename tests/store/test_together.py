"""Many records in one transaction: when they are there, and when all of them are undone."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from evomerge.errors import StoreError
from evomerge.store import Store


def numbers(folder: Path) -> list[int]:
    """What another program sees."""
    with Store.open(folder, read_only=True) as store:
        return [candidate.number for candidate in store.candidates()]


def test_what_is_recorded_together_appears_at_once(
    tmp_path: Path, run: Any, candidate: Any, evaluation: Any
) -> None:
    with Store.create(tmp_path, run) as store:
        store.record_ask(candidate(0), 0.5)
        with store.together():
            result = store.record_tell(0, evaluation(0.5), elapsed_seconds=1.0)
            store.record_ask(candidate(1), 1.0)
            assert store.evaluation(candidate(0).recipe.digest) == result
            assert numbers(tmp_path) == [0]
        assert numbers(tmp_path) == [0, 1]
        assert [event.kind for event in store.events()] == ["ask", "tell", "ask"]


def test_nothing_recorded_together_leaves_the_file_free(tmp_path: Path, run: Any) -> None:
    with Store.create(tmp_path, run) as store, store.together():
        before = Store.path(tmp_path).stat().st_mtime_ns
    assert Store.path(tmp_path).stat().st_mtime_ns == before


def test_an_error_of_the_caller_undoes_nothing(tmp_path: Path, run: Any, candidate: Any) -> None:
    with Store.create(tmp_path, run) as store:
        with pytest.raises(KeyboardInterrupt), store.together():
            store.record_ask(candidate(0), 0.5)
            raise KeyboardInterrupt
        assert numbers(tmp_path) == [0]


def test_a_record_that_fails_is_undone_alone(tmp_path: Path, run: Any, candidate: Any) -> None:
    with Store.create(tmp_path, run) as store:
        store.record_ask(candidate(0), 0.5)
        with pytest.raises(StoreError, match="UNIQUE"), store.together():
            store.record_ask(candidate(1), 1.0)
            store.record_ask(candidate(0), 1.5)  # that number is taken
        assert numbers(tmp_path) == [0, 1]
        store.record_ask(candidate(2), 2.0)
        assert numbers(tmp_path) == [0, 1, 2]


@contextmanager
def ctrl_c_after(statement: str, count: int) -> Iterator[None]:
    """Stop the program where SQLite has done such a statement for the n-th time."""
    done = 0

    def execute(cursor: Any, text: str, parameters: Any, context: Any) -> bool:
        nonlocal done
        cursor.execute(text, parameters)
        done += text.startswith(statement)
        if done == count and text.startswith(statement):
            signal.raise_signal(signal.SIGINT)
        return True

    event.listen(Engine, "do_execute", execute)
    try:
        yield
    finally:
        event.remove(Engine, "do_execute", execute)
    assert done >= count


@pytest.mark.parametrize(
    ("statement", "count", "kept"),
    [
        ("INSERT INTO recipes", 2, [0]),
        ("INSERT INTO candidates", 2, [0]),
        ("INSERT INTO events", 2, [0]),  # all but the mark of the run
        ("SAVEPOINT", 2, [0]),
        ("RELEASE", 2, [0, 1]),
        ("BEGIN", 1, []),
    ],
)
def test_an_interrupted_record_is_undone_alone(
    statement: str, count: int, kept: list[int], tmp_path: Path, run: Any, candidate: Any
) -> None:
    with Store.create(tmp_path, run) as store:
        with (
            pytest.raises(KeyboardInterrupt),
            ctrl_c_after(statement, count),
            store.together(),
        ):
            store.record_ask(candidate(0), 0.5)
            store.record_ask(candidate(1), 1.0)
        assert numbers(tmp_path) == kept
        assert len(store.events()) == len(kept)
        store.record_ask(candidate(7), 1.0)
        assert numbers(tmp_path) == [*kept, 7]


def test_on_a_full_disk_whole_records_are_kept_or_nothing(
    tmp_path: Path, run: Any, candidate: Any, evaluation: Any
) -> None:
    with Store.create(tmp_path, run) as store:
        store.record_ask(candidate(0), 0.5)
        with store._engine.connect() as connection:  # SQLite's own way to act a full disk
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 20}")
        with pytest.raises(StoreError, match="disk is full"), store.together():
            store.record_ask(candidate(1), 1.0)
            store.record_tell(0, evaluation(0.5, examples=100_000), elapsed_seconds=2.0)
        events = [event.kind for event in store.events()]
        assert events == ["ask"] * len(numbers(tmp_path))
        assert store.evaluation(candidate(0).recipe.digest) is None
