"""The file as a person meets it: with SQLite alone, by the documented names."""

from __future__ import annotations

import json
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from evomerge.errors import RunError, StoreError
from evomerge.store import Event, Store, database
from evomerge.store.checking import accept
from evomerge.types import Candidate, Evaluation, Genome

COLUMNS = {
    "runs": "id name search_yaml seed fitness_digest settings_digest versions"
    " sources_fingerprints host created_utc finished_utc checksum",
    "recipes": "digest json checksum",
    "candidates": "run_id number kind label genes recipe_digest created_utc stage role checksum",
    "parents": "run_id child position parent checksum",
    "evaluations": "id recipe_digest fitness_digest split settings_digest status value error"
    " merge_seconds score_seconds created_utc generation_seconds worker generated_tokens checksum",
    "task_scores": "evaluation_id task position score examples doc_ids example_scores checksum",
    "measures": "evaluation_id name value checksum",
    "portions": "id run_id recipe_digest examples scores merge_seconds score_seconds"
    " generation_seconds generated_tokens worker elapsed_seconds created_utc checksum",
    "cells": "recipe_digest task doc_id score",
    "grams": "run_id of position products checksum",
    "events": "run_id sequence kind candidate elapsed_seconds created_utc checksum",
    "checksums": "table_name rows sum",
    "leaderboard": "run_id number kind label role stage status value held_out_value merge_seconds"
    " score_seconds error genes recipe_digest created_utc",
    "candidate_scores": "run_id number label split task score examples",
}
PRIVATE = {"alembic_version"}


@pytest.fixture
def folder(tmp_path: Path, run: Any, candidate: Any, evaluation: Any) -> Path:
    """A run with a baseline, a good, a bad, a failed and an unfinished candidate."""
    with Store.create(tmp_path, run) as store:
        baseline = candidate(0)
        store.record_ask(
            Candidate(
                number=0,
                kind="baseline",
                label="source: math",
                genome=Genome({}),
                recipe=baseline.recipe,
            ),
            0.0,
        )
        for number in (1, 2, 3, 4):
            store.record_ask(candidate(number, *range(number - 1)), float(number))
        store.record_tell(0, evaluation(0.5), elapsed_seconds=5.0)
        store.record_tell(1, evaluation(0.25), elapsed_seconds=6.0)
        store.record_tell(2, evaluation(0.75), elapsed_seconds=7.0)
        store.record_tell(3, Evaluation("failed", error="a shape"), elapsed_seconds=8.0)
        store.record_evaluation(candidate(2).recipe.digest, "held_out", evaluation(0.7))
    return tmp_path


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond a size: writes fail as on a broken disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(Store.path(folder))) as connection:
        return connection.execute(query).fetchall()


def test_every_table_and_view_has_its_documented_columns(folder: Path) -> None:
    names = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
    found = {name for (name,) in rows(folder, names)} - PRIVATE
    assert found == set(COLUMNS)
    for name, columns in COLUMNS.items():
        assert [row[1] for row in rows(folder, f"PRAGMA table_info({name})")] == columns.split()


def test_values_are_words_numbers_json_and_utc_times(folder: Path) -> None:
    kinds = rows(folder, "SELECT kind, label, genes FROM candidates ORDER BY number LIMIT 2")
    assert kinds == [("baseline", "source: math", "{}"), ("search", "", '{"weight": 1.0}')]
    statuses = rows(folder, "SELECT DISTINCT status, split FROM evaluations ORDER BY 1, 2")
    assert statuses == [("done", "held_out"), ("done", "search"), ("failed", "search")]
    ((doc_ids, example_scores, examples),) = rows(
        folder, "SELECT doc_ids, example_scores, examples FROM task_scores LIMIT 1"
    )
    assert (json.loads(doc_ids), json.loads(example_scores)) == ([0, 1, 2], [1.0, 0.5, 0.5])
    assert examples == 3
    ((created, delay),) = rows(
        folder, "SELECT created_utc, julianday('now') - julianday(created_utc) FROM runs"
    )
    assert created.endswith("Z")
    assert 0 <= delay < 1
    parents = rows(folder, "SELECT child, parent FROM parents ORDER BY child, position")
    assert parents == [(2, 0), (3, 0), (3, 1), (4, 0), (4, 1), (4, 2)]


def test_the_leaderboard_is_best_first_and_unscored_last(folder: Path) -> None:
    board = rows(folder, "SELECT number, status, value, held_out_value, error FROM leaderboard")
    assert board == [
        (2, "done", 0.75, 0.7, None),
        (0, "done", 0.5, None, None),
        (1, "done", 0.25, None, None),
        (3, "failed", None, None, "a shape"),
        (4, None, None, None, None),
    ]
    scores = rows(folder, "SELECT number, split, task, score FROM candidate_scores")
    assert scores[2:] == [
        (1, "search", "gsm8k", 0.25),
        (1, "search", "ja", 0.25),
        (2, "search", "gsm8k", 0.75),
        (2, "search", "ja", 0.75),
        (2, "held_out", "gsm8k", 0.7),
        (2, "held_out", "ja", 0.7),
    ]


def test_a_closed_run_is_one_file_in_rollback_mode(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["run.lock", "run.sqlite"]
    assert rows(folder, "PRAGMA journal_mode") == [("delete",)]
    assert rows(folder, "PRAGMA foreign_key_check") == []


def test_a_folder_may_have_any_name(tmp_path: Path, run: Any) -> None:
    folder = tmp_path / "a run? 100% #1 & 日本語"
    Store.create(folder, run).close()
    with Store.open(folder) as store:
        assert store.run() == run
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, run: Any) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match="cannot be made"):
            Store.create(folder, run)


def test_a_run_whose_start_was_killed_can_be_started_again(tmp_path: Path, run: Any) -> None:
    (tmp_path / "run.sqlite.new").write_bytes(b"half written")
    for name in ("run.sqlite.new", "run.sqlite"):
        for kind in ("journal", "wal", "shm"):
            (tmp_path / f"{name}-{kind}").write_bytes(b"half written")
    with Store.create(tmp_path, run) as store:
        assert store.run() == run
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.lock", "run.sqlite"]


def test_a_start_that_fails_leaves_no_run_and_no_lock(tmp_path: Path, run: Any) -> None:
    with largest_file(8192), pytest.raises(StoreError, match="disk I/O error"):
        Store.create(tmp_path, run)
    with pytest.raises(RunError, match="has no run"):
        Store.open(tmp_path)
    Store.create(tmp_path, run).close()


def test_a_disk_error_is_reported_and_loses_nothing(folder: Path, evaluation: Any) -> None:
    result = evaluation(0.5, examples=10_000)
    with Store.open(folder) as store:
        before = store.events()
        limit = Store.path(folder).stat().st_size
        with (
            largest_file(limit),
            pytest.raises(StoreError, match=r"disk I/O error\. Check the disk"),
        ):
            store.record_tell(4, result, elapsed_seconds=9.0)
        assert store.events() == before
        store.record_tell(4, result, elapsed_seconds=9.0)
        assert store.events() == [*before, Event("tell", 4, 9.0)]


def test_a_full_disk_is_reported_and_loses_nothing(
    folder: Path, candidate: Any, evaluation: Any
) -> None:
    with Store.open(folder) as store:
        before = store.events()
        with store._engine.connect() as connection:  # SQLite's own way to act a full disk
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match=r"run.sqlite: database or disk is full. Make room"):
            store.record_tell(4, evaluation(0.5, examples=10_000), elapsed_seconds=9.0)
        assert store.events() == before
        assert store.evaluation(candidate(4).recipe.digest) is None
        with store._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        store.record_tell(4, evaluation(0.5, examples=10_000), elapsed_seconds=9.0)
        assert store.events() == [*before, Event("tell", 4, 9.0)]


def test_a_file_held_by_another_program_is_reported_and_loses_nothing(
    folder: Path, evaluation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    with Store.open(folder) as store, closing(sqlite3.connect(Store.path(folder))) as other:
        before = store.events()
        other.execute("BEGIN")
        other.execute("SELECT * FROM events").fetchone()  # a reader that forgot to end
        with pytest.raises(StoreError, match=r"is locked\. Another program holds it open"):
            store.record_tell(4, evaluation(0.5), elapsed_seconds=9.0)
        other.rollback()
        assert store.events() == before
        store.record_tell(4, evaluation(0.5), elapsed_seconds=9.0)
        assert len(store.events()) == len(before) + 1


@pytest.mark.parametrize("read_only", [True, False])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "not of an evomerge run"),
        (lambda data: b"hello " * 4000, "not a database. Restore it from a copy"),
        (lambda data: data[: len(data) // 2], "malformed. Restore it from a copy"),
        (lambda data: data[:8192] + b"\xff" * (len(data) - 8192), "malformed"),
        (lambda data: data[:50], "malformed"),
    ],
    ids=["empty", "text", "truncated", "overwritten", "stump"],
)
def test_a_damaged_file_is_a_store_error(
    folder: Path, damage: Any, message: str, read_only: bool, run: Any
) -> None:
    path = Store.path(folder)
    path.write_bytes(damage(path.read_bytes()))
    damaged = path.read_bytes()
    with pytest.raises(StoreError, match=f"run.sqlite: .*{message}"):
        Store.open(folder, read_only=read_only)
    assert path.read_bytes() == damaged
    path.unlink()
    Store.create(folder, run).close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("""UPDATE candidates SET genes = '{"weight": ' WHERE number = 1""", "run.sqlite: "),
        ("""UPDATE recipes SET json = replace(json, '0.5', '0.6')""", "its text was changed"),
        ("""UPDATE recipes SET json = '{}'""", "its text was changed"),
    ],
)
def test_a_row_that_makes_no_sense_is_a_store_error(
    folder: Path, change: str, message: str
) -> None:
    with closing(sqlite3.connect(Store.path(folder))) as connection, connection:
        connection.execute(change)
    accept(folder)
    with Store.open(folder) as store, pytest.raises(StoreError, match=message):
        store.candidates()


def test_a_database_of_another_program_is_a_store_error(tmp_path: Path) -> None:
    with closing(sqlite3.connect(Store.path(tmp_path))) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    with pytest.raises(StoreError, match="is a database, but not of an evomerge run"):
        Store.open(tmp_path)


@pytest.mark.parametrize("examples", [3, 1000])
def test_telling_takes_one_row_a_task_however_many_examples_it_has(
    examples: int, tmp_path: Path, run: Any, candidate: Any, evaluation: Any
) -> None:
    inserted: list[int] = []

    def count(*call: Any) -> None:
        *_, statement, parameters, _, executemany = call
        if statement.startswith("INSERT"):
            inserted.append(len(parameters) if executemany else 1)

    with Store.create(tmp_path, run) as store:
        store.record_ask(candidate(0), 0.0)
        event.listen(Engine, "before_cursor_execute", count)
        store.record_tell(0, evaluation(1 / 3, examples), elapsed_seconds=0.0)
        event.remove(Engine, "before_cursor_execute", count)
    assert (
        sum(inserted) == 1 + 2 + 1 + 1
    )  # the evaluation, its two tasks, its one measure, the event
