"""Rows of `runs`."""

from __future__ import annotations

import json
from dataclasses import asdict

from sqlalchemy import Connection, bindparam, insert, select, update

from evomerge.store.records import RunRecord, to_json, utc_now
from evomerge.store.schema import runs

_JSON_COLUMNS = ("versions", "sources_fingerprints")
# Built once, for it runs with every candidate.
_GO_ON = (
    update(runs)
    .where(runs.c.id == bindparam("run_id"), runs.c.finished_utc.is_not(None))
    .values(finished_utc=None)
)


def add(connection: Connection, run: RunRecord) -> None:
    """Insert a run."""
    row = asdict(run)
    connection.execute(insert(runs), row | {name: to_json(row[name]) for name in _JSON_COLUMNS})


def load(connection: Connection, run_id: int) -> RunRecord:
    """The run with this id."""
    columns = connection.execute(select(runs).where(runs.c.id == run_id)).one()._mapping
    row = {name: value for name, value in columns.items() if name != "id"}
    return RunRecord(**row | {name: json.loads(row[name]) for name in _JSON_COLUMNS})


def only_id(connection: Connection) -> int:
    """The id of the one run in this database."""
    run_id: int = connection.execute(select(runs.c.id)).scalar_one()
    return run_id


def mark_finished(connection: Connection, run_id: int) -> None:
    """The run ended now."""
    connection.execute(update(runs).where(runs.c.id == run_id).values(finished_utc=utc_now()))


def mark_going_on(connection: Connection, run_id: int) -> None:
    """The run is not finished any more, if it was."""
    connection.execute(_GO_ON, {"run_id": run_id})
