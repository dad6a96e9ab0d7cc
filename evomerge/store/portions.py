"""Rows of `portions`: the scores of recipes that were asked some of the search examples."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from sqlalchemy import Connection, bindparam, func, insert, select

from evomerge.store.checksums import with_checksum
from evomerge.store.evaluations import SPENT
from evomerge.store.records import PortionRecord, to_json, utc_now
from evomerge.store.schema import portions
from evomerge.types import Cells, Evaluation

# Built once: building them takes longer than SQLite does.
_ADD = insert(portions)
_NEXT = select(func.coalesce(func.max(portions.c.id) + 1, 1))
_ALL = (
    select(
        portions.c.recipe_digest,
        portions.c.scores,
        portions.c.generated_tokens,
        portions.c.elapsed_seconds,
    )
    .where(portions.c.run_id == bindparam("run_id"))
    .order_by(portions.c.id)
)
_OF_RECIPE = _ALL.where(portions.c.recipe_digest == bindparam("recipe_digest"))
_TOKENS = select(func.sum(portions.c.generated_tokens)).where(
    portions.c.run_id == bindparam("run_id"), portions.c.elapsed_seconds <= bindparam("elapsed")
)
_ELAPSED = select(func.max(portions.c.elapsed_seconds)).where(
    portions.c.run_id == bindparam("run_id")
)


def add(
    connection: Connection, run_id: int, digest: str, evaluation: Evaluation, elapsed: float
) -> None:
    """Insert the scores of a recipe on the examples that an evaluation has.

    Args:
        elapsed: seconds of search time spent until then.
    """
    row = {
        "id": connection.execute(_NEXT).scalar_one(),
        "run_id": run_id,
        "recipe_digest": digest,
        "examples": evaluation.examples,
        "scores": to_json(evaluation.cells),
        **{name: getattr(evaluation, name) for name in SPENT},
        "worker": evaluation.worker or None,
        "elapsed_seconds": elapsed,
        "created_utc": utc_now(),
    }
    connection.execute(_ADD, with_checksum(portions, row))


def union(answers: Iterable[Cells]) -> Cells:
    """All scores in one; of two for the same example, the first."""
    known: dict[str, dict[int, float]] = {}
    for cells in answers:
        for task, scores in cells.items():
            known[task] = {**scores, **known.get(task, {})}
    return known


def load(connection: Connection, run_id: int, digest: str | None = None) -> Iterator[PortionRecord]:
    """Every portion of a run, or of one recipe, the oldest first."""
    given = {"run_id": run_id} if digest is None else {"run_id": run_id, "recipe_digest": digest}
    for recipe, scores, *rest in connection.execute(_ALL if digest is None else _OF_RECIPE, given):
        cells = {
            task: {int(example): float(score) for example, score in of_task.items()}
            for task, of_task in json.loads(scores).items()
        }
        yield PortionRecord(recipe, cells, *rest)


def tokens(connection: Connection, run_id: int, elapsed: float) -> int:
    """How many tokens were generated until so much search time had passed."""
    return connection.execute(_TOKENS, {"run_id": run_id, "elapsed": elapsed}).scalar() or 0


def elapsed_seconds(connection: Connection, run_id: int) -> float:
    """Search time spent up to the last portion; 0 before the first."""
    return connection.execute(_ELAPSED, {"run_id": run_id}).scalar() or 0.0
