"""Rows of `grams`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import Connection, insert, select

from evomerge.store.records import to_json
from evomerge.store.schema import grams
from evomerge.types import PrefixGram

_ADD = insert(grams)


def add(connection: Connection, run_id: int, measured: Sequence[PrefixGram]) -> None:
    """Insert what was measured."""
    rows = [
        {"run_id": run_id, "of": of, "position": position, "products": to_json(products)}
        for of, position, products in measured
    ]
    connection.execute(_ADD, rows)


def load(connection: Connection, run_id: int) -> list[PrefixGram]:
    """All of a run, by position."""
    columns = select(grams.c.of, grams.c.position, grams.c.products)
    rows = connection.execute(columns.where(grams.c.run_id == run_id).order_by(grams.c.position))
    return [
        PrefixGram(of, position, tuple(json.loads(products))) for of, position, products in rows
    ]
