"""Many records in one transaction: when they are there, and when all of them are undone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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
            told = store.record_tell(0, evaluation(0.5), elapsed_seconds=1.0)
            store.record_ask(candidate(1), 1.0)
            assert store.evaluation(candidate(0).recipe.digest) == told
            assert numbers(tmp_path) == [0]
        assert numbers(tmp_path) == [0, 1]
        assert [event.kind for event in store.events()] == ["ask", "tell", "ask"]


def test_nothing_recorded_together_leaves_the_file_free(tmp_path: Path, run: Any) -> None:
    with Store.create(tmp_path, run) as store, store.together():
        before = (tmp_path / "run.sqlite").stat().st_mtime_ns
    assert (tmp_path / "run.sqlite").stat().st_mtime_ns == before


def test_an_error_of_the_caller_undoes_nothing(tmp_path: Path, run: Any, candidate: Any) -> None:
    with Store.create(tmp_path, run) as store:
        with pytest.raises(KeyboardInterrupt), store.together():
            store.record_ask(candidate(0), 0.5)
            raise KeyboardInterrupt
        assert numbers(tmp_path) == [0]


def test_a_record_that_fails_undoes_all_that_was_recorded_with_it(
    tmp_path: Path, run: Any, candidate: Any
) -> None:
    with Store.create(tmp_path, run) as store:
        store.record_ask(candidate(0), 0.5)
        with pytest.raises(StoreError), store.together():
            store.record_ask(candidate(1), 1.0)
            store.record_ask(candidate(0), 1.5)  # that number is taken
        assert numbers(tmp_path) == [0]
        store.record_ask(candidate(1), 2.0)
        assert numbers(tmp_path) == [0, 1]
