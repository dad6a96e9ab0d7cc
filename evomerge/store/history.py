"""Rows of `events`."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import Connection, func, insert, select

from evomerge.store.records import Event, utc_now
from evomerge.store.schema import events


def add(
    connection: Connection,
    run_id: int,
    kind: Literal["ask", "tell"],
    number: int,
    elapsed_seconds: float,
) -> None:
    """Append a step to a run's history."""
    of_run = events.c.run_id == run_id
    last = connection.execute(select(func.max(events.c.sequence)).where(of_run)).scalar()
    row = {
        "run_id": run_id,
        "sequence": 0 if last is None else last + 1,
        "kind": kind,
        "candidate": number,
        "elapsed_seconds": elapsed_seconds,
        "created_utc": utc_now(),
    }
    connection.execute(insert(events), row)


def load(connection: Connection, run_id: int) -> list[Event]:
    """All steps of a run, first to last."""
    columns = select(events.c.kind, events.c.candidate, events.c.elapsed_seconds)
    of_run = columns.where(events.c.run_id == run_id)
    return [Event(*row) for row in connection.execute(of_run.order_by(events.c.sequence))]


def elapsed_seconds(connection: Connection, run_id: int) -> float:
    """Search time spent up to the last step; 0 before the first."""
    of_run = select(events.c.elapsed_seconds).where(events.c.run_id == run_id)
    newest = of_run.order_by(events.c.sequence.desc()).limit(1)
    return connection.execute(newest).scalar() or 0.0
