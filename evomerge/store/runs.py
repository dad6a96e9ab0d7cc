"""Rows of `runs`, and of the `events` and `grams` of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

from sqlalchemy import Connection, bindparam, func, insert, select, update

from evomerge.store.checksums import with_checksum
from evomerge.store.records import Event, RunRecord, to_json, utc_now
from evomerge.store.schema import events, grams, runs
from evomerge.types import PrefixGram

_JSON_COLUMNS = ("versions", "sources_fingerprints")
# Built once: building them takes longer than SQLite does.
_FINISHED = select(runs.c.finished_utc).where(runs.c.id == bindparam("run_id"))
_NEXT = select(func.coalesce(func.max(events.c.sequence) + 1, 0)).where(
    events.c.run_id == bindparam("run_id")
)
_ADD_EVENT = insert(events)
_ADD_GRAMS = insert(grams)


def add(connection: Connection, run: RunRecord) -> None:
    """Insert a run."""
    row = asdict(run)
    row |= {"id": 1, **{name: to_json(row[name]) for name in _JSON_COLUMNS}}
    connection.execute(insert(runs), with_checksum(runs, row))


def load(connection: Connection, run_id: int) -> RunRecord:
    """The run with this id."""
    columns = connection.execute(select(runs).where(runs.c.id == run_id)).one()._mapping
    row = {name: value for name, value in columns.items() if name not in ("id", "checksum")}
    return RunRecord(**row | {name: json.loads(row[name]) for name in _JSON_COLUMNS})


def only_id(connection: Connection) -> int:
    """The id of the one run in this database."""
    run_id: int = connection.execute(select(runs.c.id)).scalar_one()
    return run_id


def mark_finished(connection: Connection, run_id: int) -> None:
    """Mark the run as finished now."""
    _set_finished(connection, run_id, utc_now())


def mark_going_on(connection: Connection, run_id: int) -> None:
    """Mark the run as unfinished, also where it was finished before."""
    if connection.execute(_FINISHED, {"run_id": run_id}).scalar() is not None:
        _set_finished(connection, run_id, None)


def _set_finished(connection: Connection, run_id: int, when: str | None) -> None:
    of_run = runs.c.id == run_id
    row = connection.execute(select(runs).where(of_run)).one()._asdict()
    changed = with_checksum(runs, row | {"finished_utc": when})
    connection.execute(update(runs).where(of_run).values(changed))


def add_event(
    connection: Connection,
    run_id: int,
    kind: Literal["ask", "tell"],
    number: int,
    elapsed_seconds: float,
) -> None:
    """Append a step to a run's history."""
    row = {
        "run_id": run_id,
        "sequence": connection.execute(_NEXT, {"run_id": run_id}).scalar_one(),
        "kind": kind,
        "candidate": number,
        "elapsed_seconds": elapsed_seconds,
        "created_utc": utc_now(),
    }
    connection.execute(_ADD_EVENT, with_checksum(events, row))


def load_events(connection: Connection, run_id: int) -> list[Event]:
    """All steps of a run, first to last."""
    columns = select(events.c.kind, events.c.candidate, events.c.elapsed_seconds)
    of_run = columns.where(events.c.run_id == run_id)
    return [Event(*row) for row in connection.execute(of_run.order_by(events.c.sequence))]


def elapsed_seconds(connection: Connection, run_id: int) -> float:
    """Search time spent up to the last step; 0 before the first."""
    of_run = select(events.c.elapsed_seconds).where(events.c.run_id == run_id)
    newest = of_run.order_by(events.c.sequence.desc()).limit(1)
    return connection.execute(newest).scalar() or 0.0


def add_grams(connection: Connection, run_id: int, measured: Sequence[PrefixGram]) -> None:
    """Insert inner products that were measured."""
    rows = [
        {"run_id": run_id, "of": of, "position": position, "products": to_json(products)}
        for of, position, products in measured
    ]
    connection.execute(_ADD_GRAMS, [with_checksum(grams, row) for row in rows])


def load_grams(connection: Connection, run_id: int) -> list[PrefixGram]:
    """All measured inner products of a run, by position."""
    columns = select(grams.c.of, grams.c.position, grams.c.products)
    rows = connection.execute(columns.where(grams.c.run_id == run_id).order_by(grams.c.position))
    return [
        PrefixGram(of, position, tuple(json.loads(products))) for of, position, products in rows
    ]
