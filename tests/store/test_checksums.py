"""What a disk loses and what a person changes is noticed, whatever it is."""

from __future__ import annotations

import json
import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import EvomergeError, StoreError
from evomerge.store import Store
from evomerge.store.checking import accept, differences
from evomerge.store.schema import checksums, metadata
from evomerge.types import Evaluation, Genome, PrefixGram, TaskScores

Cli = Callable[..., Any]
TABLES = [table.name for table in metadata.sorted_tables if table is not checksums]


@pytest.fixture
def folder(tmp_path: Path, run: Any, candidate: Any, evaluation: Any) -> Path:
    """A run with rows in every table, finished, gone on with, and finished again."""
    odd = TaskScores(-0.0, (0, 3), (float("inf"), 2))
    with Store.create(tmp_path, run) as store:
        store.record_grams([PrefixGram("of", 4, (1.0, 0.5, 0.5, 1.0))])
        store.record_ask(replace(candidate(0), stage="é", label="日本"), 0)  # integers for floats
        store.record_tell(0, evaluation(0.5), elapsed_seconds=1)
        store.finish()
        with store.together():
            for number in (1, 2, 3):
                store.record_ask(candidate(number, *range(number)), float(number))
            store.record_tell(1, Evaluation("failed", error="a\0b\ud800"), elapsed_seconds=3.5)
            store.record_tell(2, Evaluation("done", {"t": odd}, value=-0.0), elapsed_seconds=4)
        again = replace(candidate(2), number=4, genome=Genome({}, (2,)))  # of a known recipe
        store.record_ask(again, 5.0)
        store.record_evaluation(candidate(1).recipe.digest, "held_out", evaluation(0.25))
        part = Evaluation("done", {"t": TaskScores(0.5, (1,), (0.5,))}, merge_seconds=1)
        store.record_portion(candidate(3).recipe.digest, part, elapsed_seconds=6)
        store.finish()
    return tmp_path


def execute(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(Store.path(folder))) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def query(folder: Path, text: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(Store.path(folder))) as connection:
        return connection.execute(text).fetchall()


def test_what_was_recorded_does_not_differ(folder: Path) -> None:
    assert all(query(folder, f"SELECT 1 FROM {table} LIMIT 1") for table in TABLES)
    assert differences(folder) == []


@pytest.mark.parametrize("table", TABLES)
def test_any_changed_value_is_noticed_and_its_row_named(folder: Path, table: str) -> None:
    whole = Store.path(folder).read_bytes()
    keys = [column.name for column in metadata.tables[table].primary_key]
    last = f"WHERE rowid = (SELECT max(rowid) FROM {table})"
    for column in map(str, metadata.tables[table].columns.keys()):
        change = f"iif(typeof({column}) IN ('text', 'null'), ifnull({column}, '') || 'x', 1e9)"
        execute(
            folder,
            "PRAGMA ignore_check_constraints = ON",
            f"UPDATE {table} SET {column} = {change} {last}",
        )
        (key,) = query(folder, f"SELECT {', '.join(keys)} FROM {table} {last}")
        named = ", ".join(f"{name} {value}" for name, value in zip(keys, key, strict=True))
        assert f"{table}: the row with {named} is not as it was recorded." in differences(folder)
        Store.path(folder).write_bytes(whole)


@pytest.mark.parametrize("table", TABLES)
def test_a_row_that_is_gone_is_noticed(folder: Path, table: str) -> None:
    (count,) = query(folder, f"SELECT count(*) FROM {table}")[0]
    execute(folder, f"DELETE FROM {table} WHERE rowid = (SELECT max(rowid) FROM {table})")
    assert f"{table}: has {count - 1} rows, {count} were recorded." in differences(folder)
    for read_only in (True, False):
        with pytest.raises(StoreError, match=f"{table}: has {count - 1} rows"):
            Store.open(folder, read_only=read_only)


@pytest.mark.parametrize("table", [*TABLES, "checksums"])
def test_a_table_that_is_gone_is_noticed(folder: Path, table: str) -> None:
    execute(folder, "PRAGMA foreign_keys = OFF", f"DROP TABLE {table}")
    assert f"{table}: the table is missing." in differences(folder)
    with pytest.raises(StoreError, match=f"{table}: the table is missing"):
        Store.open(folder, read_only=True)


RESTORE = "Restore it from a copy, or start the run again in another folder. `evomerge check "


@pytest.mark.parametrize(
    ("statement", "lost"),
    [
        ("DROP TABLE events", "events: the table is missing."),
        ("DROP TABLE grams", "grams: the table is missing."),
        ("ALTER TABLE runs RENAME COLUMN name TO title", "runs: the column name is missing."),
        ("ALTER TABLE grams RENAME COLUMN checksum TO c", "grams: the column checksum is missing."),
        ("ALTER TABLE checksums RENAME rows TO n", "checksums: the column rows is missing."),
    ],
)
def test_what_rows_were_in_cannot_be_accepted_once_it_is_gone(
    folder: Path, cli: Cli, statement: str, lost: str
) -> None:
    execute(folder, "UPDATE evaluations SET value = 0.9 WHERE id = 1", statement)
    before = Store.path(folder).read_bytes()
    for words in (("show", folder), ("check", folder, "--accept")):
        done = cli(*words)
        assert done.returncode == 1
        assert f"{lost} " in done.stderr
        assert RESTORE in done.stderr
        assert "--accept" not in done.stderr
    assert lost in cli("check", folder).stdout.splitlines()
    assert Store.path(folder).read_bytes() == before


def test_the_table_of_checksums_is_made_anew_and_kept_up_to_date(
    folder: Path, cli: Cli, candidate: Any
) -> None:
    schema = "SELECT type, name, sql FROM sqlite_master ORDER BY type, name"
    recorded = query(folder, schema), query(folder, "SELECT * FROM checksums ORDER BY table_name")
    execute(folder, "DROP TABLE checksums")
    assert "with --accept, it is taken as it is" in cli("show", folder).stderr
    accepted = cli("check", folder, "--accept")
    assert (accepted.returncode, accepted.stdout.splitlines()[-1]) == (0, "accepted as it is")
    found = query(folder, schema), query(folder, "SELECT * FROM checksums ORDER BY table_name")
    assert str(found).split() == str(recorded).split()
    with Store.open(folder) as store:
        store.record_ask(candidate(7, 0), 9.0)
        store.record_tell(7, Evaluation("failed", error="late"), elapsed_seconds=9.5)
    assert differences(folder) == []


def test_a_database_that_is_no_run_s_is_not_as_it_was_recorded(folder: Path, cli: Cli) -> None:
    Store.path(folder).write_bytes(b"")  # which SQLite takes for an empty database
    found = cli("check", folder)
    assert (found.returncode, found.stdout) == (1, "")
    assert "is a database, but not of an evomerge run" in found.stderr


@pytest.mark.parametrize("name", ["run.sqlite-wal", "run.sqlite-journal", "run.sqlite-shm"])
def test_a_named_pipe_beside_a_run_is_not_waited_for(folder: Path, name: str) -> None:
    os.mkfifo(folder / name)
    for read in (differences, Store.open):
        with pytest.raises(StoreError, match="it is a named pipe, not a file"):
            read(folder)


def test_other_rows_than_were_recorded_are_noticed(folder: Path) -> None:
    execute(folder, "UPDATE checksums SET sum = sum + 1 WHERE table_name = 'events'")
    assert differences(folder) == ["events: has other rows than were recorded."]
    execute(folder, "DELETE FROM checksums WHERE table_name = 'events'")
    assert differences(folder) == ["checksums: the row of events is missing."]


def test_a_row_that_someone_adds_needs_a_checksum(folder: Path) -> None:
    with pytest.raises(sqlite3.IntegrityError, match=r"checksums\.sum"):
        execute(folder, "INSERT INTO recipes (digest, json) VALUES ('d', '{}')")


def test_the_message_says_where_and_what_to_do(folder: Path) -> None:
    execute(folder, "UPDATE evaluations SET value = 0.9 WHERE id = 1")
    with pytest.raises(StoreError) as raised:
        Store.open(folder, read_only=True)
    assert str(raised.value) == (
        f"{Store.path(folder)}: evaluations: the row with id 1 is not as it was recorded. Restore "
        f"it from a copy, or start the run again in another folder. `evomerge check {folder}` "
        "lists all that differs from what was recorded; with --accept, it is taken as it is."
    )


def test_check_lists_all_that_differs_and_accepts_it_if_told_to(folder: Path, cli: Cli) -> None:
    assert cli("check", folder).stdout == "all is as it was recorded\n"
    execute(folder, "UPDATE evaluations SET value = 0.9 WHERE id = 1", "DELETE FROM grams")
    lines = [
        "evaluations: the row with id 1 is not as it was recorded.",
        "grams: has 0 rows, 1 were recorded.",
    ]
    for given in (folder, Store.path(folder)):
        found = cli("check", given)
        assert (found.returncode, found.stdout.splitlines()) == (1, lines)
    assert json.loads(cli("check", folder, "--json").stdout)["differences"] == lines
    accepted = cli("check", folder, "--accept")
    assert (accepted.returncode, accepted.stdout.splitlines()) == (0, [*lines, "accepted as it is"])
    assert cli("check", folder).returncode == 0
    with Store.open(folder) as store:
        assert store.evaluation(query(folder, "SELECT recipe_digest FROM evaluations")[0][0])


def test_a_damaged_index_is_noticed_and_made_anew(folder: Path, candidate: Any) -> None:
    path = Store.path(folder)
    digest = query(folder, "SELECT recipe_digest FROM evaluations WHERE id = 1")[0][0].encode()
    data = path.read_bytes()
    page = query(
        folder, "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_evaluations_1'"
    )[0][0]
    size = query(folder, "PRAGMA page_size")[0][0]
    start = data.index(digest, (page - 1) * size)
    path.write_bytes(data[:start] + bytes([data[start] ^ 1]) + data[start + 1 :])
    with pytest.raises(StoreError, match="index"):
        Store.open(folder, read_only=True)
    accept(folder)
    assert differences(folder) == []
    with Store.open(folder, read_only=True) as store:
        assert store.evaluation(candidate(0).recipe.digest) is not None


def contents(folder: Path) -> tuple[object, ...]:
    """All that can be read of a run."""
    with Store.open(folder, read_only=True) as store:
        splits = [list(store.evaluations(split)) for split in ("search", "held_out")]
        run, events, grams = store.run(), store.events(), store.grams()
        return run, store.candidates(), events, grams, splits, store.spent()


@pytest.mark.parametrize(
    "flips", [40, pytest.param(4000, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_no_flipped_bit_changes_what_is_read_without_a_word(folder: Path, flips: int) -> None:
    path, expected = Store.path(folder), contents(folder)
    data, where = path.read_bytes(), random.Random(flips)
    noticed = 0
    for _ in range(flips):
        damaged = bytearray(data)
        damaged[place := where.randrange(len(data))] ^= 1 << where.randrange(8)
        path.write_bytes(damaged)
        try:
            assert contents(folder) == expected, place
        except EvomergeError:
            noticed += 1
        for left in folder.glob("run.sqlite-*"):
            left.unlink()
    assert noticed > flips // 20


def test_a_whole_page_that_went_back_in_time_is_noticed(folder: Path, candidate: Any) -> None:
    path = Store.path(folder)
    before = path.read_bytes()
    with Store.open(folder) as store:
        store.record_ask(candidate(7, 0), 9.0)
        store.record_tell(7, Evaluation("failed", error="late"), elapsed_seconds=9.5)
    after, size = path.read_bytes(), query(folder, "PRAGMA page_size")[0][0]
    pages = [n for n in range(0, len(before), size) if before[n : n + size] != after[n : n + size]]
    assert len(pages) > 5
    for start in pages[1:]:  # the first only counts changes
        path.write_bytes(after[:start] + before[start : start + size] + after[start + size :])
        with pytest.raises(StoreError):
            Store.open(folder, read_only=True)
