"""Rows of `events`."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import Connection, bindparam, func, insert, select

from evomerge.store.records import Event, utc_now
from evomerge.store.schema import events

# Built once: building it takes longer than SQLite does.
_NEXT = select(func.coalesce(func.max(events.c.sequence) + 1, 0)).where(
    events.c.run_id == bindparam("of_run")
)
_ADD = insert(events).values(
    run_id=bindparam("of_run"),
    sequence=_NEXT.scalar_subquery(),
    kind=bindparam("kind"),
    candidate=bindparam("candidate"),
    elapsed_seconds=bindparam("elapsed_seconds"),
    created_utc=bindparam("created_utc"),
)


def add(
    connection: Connection,
    run_id: int,
    kind: Literal["ask", "tell"],
    number: int,
    elapsed_seconds: float,
) -> None:
    """Append a step to a run's history."""
    row = {
        "of_run": run_id,
        "kind": kind,
        "candidate": number,
        "elapsed_seconds": elapsed_seconds,
        "created_utc": utc_now(),
    }
    connection.execute(_ADD, row)


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
