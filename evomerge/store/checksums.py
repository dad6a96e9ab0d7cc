"""Checksums: a file that has rotted, or was changed by hand, is known from one that was not.

Every row holds one over all its other values. The table `checksums` holds how many rows each table
has and the sum of their checksums, so that a row that is gone, or there twice, is noticed too;
triggers keep it up to date. All are compared whenever a run is opened, which takes a sixth of what
reading all of it does: 0.7 s for 10,000 evaluations of 1,000 examples.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Column, Connection, Double, Table, inspect

from evomerge.store.schema import checksums, metadata

_COLUMN = "checksum"
_BYTES = 7  # two sums still fit SQLite's integers
_MASK = 2 ** (8 * _BYTES) - 1
# Text that is no UTF-8 any more is another text, not an error.
_TEXT = partial(str, encoding="utf-8", errors="backslashreplace")
_RECORDS = [table for table in metadata.sorted_tables if table is not checksums]
_NO_TABLE, _NO_COLUMN = "{}: the table is missing.", "{}: the column {} is missing."
# With one of these no run can be taken as it is; the table of checksums can be made anew.
_LOSSES = {
    *(_NO_TABLE.format(table.name) for table in _RECORDS),
    *(_NO_COLUMN.format(t.name, c.name) for t in metadata.sorted_tables for c in t.columns),
}
Value = str | bytes | int | float | None


def _float(value: Any) -> float:
    return float(value) + 0.0  # SQLite keeps no sign of zero


def _as_stored(column: Column[Any]) -> Callable[[Any], Any]:
    return _float if isinstance(column.type, Double) else column.type.python_type


# Sorted by name: which migration added which column does not matter.
_COLUMNS = {
    table.name: [
        (name, _as_stored(table.columns[name]))
        for name in sorted(table.columns.keys())
        if name != _COLUMN
    ]
    for table in _RECORDS
}


def with_checksum(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row to be inserted: every column, of the type that it reads back as."""
    stored = {
        name: None if row[name] is None else convert(row[name])
        for name, convert in _COLUMNS[table.name]
    }
    return {**stored, _COLUMN: _checksum(tuple(stored.values()))}


def _checksum(values: tuple[Value, ...]) -> int:
    digest = hashlib.sha256(ascii(values).encode()).digest()
    return int.from_bytes(digest[:_BYTES], "big")


def are_kept(connection: Connection) -> bool:
    """Whether the database is of a version that keeps them."""
    return inspect(connection).has_table(checksums.name)


def ensure_table(connection: Connection) -> None:
    """Make their table, if it is missing, for `renew`; its triggers are on the others, and stay."""
    checksums.create(connection, checkfirst=True)


def renew(connection: Connection) -> None:
    """Take all rows as they are."""
    driver = _driver(connection)
    driver.execute(f"DELETE FROM {checksums.name}")
    for table in _COLUMNS:
        found = [(_checksum(row.values), row.rowid) for row in _rows(driver, table)]
        driver.executemany(f"UPDATE {table} SET {_COLUMN} = ? WHERE rowid = ?", found)
        total = sum(checksum for checksum, _ in found) & _MASK
        driver.execute(f"INSERT INTO {checksums.name} VALUES (?, ?, ?)", (table, len(found), total))


def totals(connection: Connection) -> list[Any]:
    """A value that differs wherever other rows are recorded."""
    query = f"SELECT table_name, rows, sum FROM {checksums.name} ORDER BY table_name"
    return _driver(connection).execute(query).fetchall()


def beyond_repair(differences: Sequence[str]) -> list[str]:
    """Those of the `problems` with which no run can be taken as it is: lost tables and columns."""
    return [difference for difference in differences if difference in _LOSSES]


def problems(connection: Connection, *, older: bool = False) -> Iterator[str]:
    """What differs from what was recorded, in rows and in SQLite's own structures: sentences.

    Args:
        older: whether the database is of an older version, which may have fewer tables.
    """
    driver = _driver(connection)
    there = {name for (name,) in driver.execute("SELECT name FROM sqlite_master")}
    lost = {} if older else {name: _lost(driver, name) for name in (*_COLUMNS, checksums.name)}
    for sentences in lost.values():
        yield from sentences
    if checksums.name not in there or lost.get(checksums.name):
        return
    tables = [table for table in _COLUMNS if table in there and not lost.get(table)]
    for check in (_structure(driver), *(_table(driver, table) for table in tables)):
        try:
            yield from check
        except sqlite3.DatabaseError as error:
            yield f"{error}."


def _lost(driver: sqlite3.Connection, table: str) -> list[str]:
    """The table or its columns, where they are missing."""
    there = {row[1] for row in driver.execute(f"PRAGMA table_info({table})")}
    if not there:
        return [_NO_TABLE.format(table)]
    columns = (column.name for column in metadata.tables[table].columns)
    return [_NO_COLUMN.format(table, column) for column in columns if column not in there]


def _structure(driver: sqlite3.Connection) -> Iterator[str]:
    """Pages, constraints, and indexes, through which rows are found."""
    for (line,) in driver.execute("PRAGMA integrity_check").fetchall():
        if line != "ok":
            yield f"{line}."


def _table(driver: sqlite3.Connection, table: str) -> Iterator[str]:
    names, count, total = _names(driver, table), 0, 0
    for row in _rows(driver, table):
        count += 1
        total += row.checksum if isinstance(row.checksum, int) else 0
        if row.checksum != _checksum(row.values):
            key = _key(names, table, row)
            yield f"{table}: the row with {key} is not as it was recorded."
    query = f"SELECT rows, sum FROM {checksums.name} WHERE table_name = ?"
    recorded = driver.execute(query, (table,)).fetchone()
    if recorded is None:
        yield f"{checksums.name}: the row of {table} is missing."
    elif count != recorded[0]:
        yield f"{table}: has {count} rows, {recorded[0]} were recorded."
    elif total & _MASK != recorded[1]:
        yield f"{table}: has other rows than were recorded."


class _Row(NamedTuple):
    """A row as it is: its checksum, and all other values by the names of their columns."""

    rowid: int
    checksum: Value
    values: tuple[Value, ...]


def _names(driver: sqlite3.Connection, table: str) -> list[str]:
    """The columns that a checksum is over; a table of an older version may have fewer."""
    return sorted({row[1] for row in driver.execute(f"PRAGMA table_info({table})")} - {_COLUMN})


def _rows(driver: sqlite3.Connection, table: str) -> Iterator[_Row]:
    """All rows of a table, found without its indexes."""
    names = ", ".join(f'"{name}"' for name in _names(driver, table))
    before, driver.text_factory = driver.text_factory, _TEXT
    try:
        query = f"SELECT rowid, {_COLUMN}, {names} FROM {table} NOT INDEXED"
        for rowid, checksum, *values in driver.execute(query):
            yield _Row(rowid, checksum, tuple(values))
    finally:
        driver.text_factory = before


def _key(names: Sequence[str], table: str, row: _Row) -> str:
    """What a person finds a row by: ``run_id 1, number 7``."""
    values = dict(zip(names, row.values, strict=True))
    keys = [column.name for column in metadata.tables[table].primary_key]
    return ", ".join(f"{name} {values[name]!s}" for name in keys)


def _driver(connection: Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    return driver
