"""Rows of `evaluations`, `task_scores` and `measures`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, bindparam, func, insert, select, union_all

from evomerge.errors import StoreError
from evomerge.store.checksums import with_checksum
from evomerge.store.records import to_json, utc_now
from evomerge.store.schema import evaluations, measures, portions, task_scores
from evomerge.types import Evaluation, Split, TaskScores


class Key(NamedTuple):
    """What makes two evaluations the same; the fields are columns."""

    recipe_digest: str
    fitness_digest: str
    split: Split
    settings_digest: str


SPENT = ("merge_seconds", "generation_seconds", "score_seconds", "generated_tokens")
_PLAIN = ("status", "value", *SPENT)  # columns that hold a field as it is
# Built once: building them takes longer than SQLite does.
_WITH_TASKS = (  # a row for each task, one without where an evaluation has none
    select(evaluations, task_scores)
    .outerjoin(task_scores)
    .order_by(evaluations.c.id, task_scores.c.position)
)
_FIND = _WITH_TASKS.where(*(evaluations.c[name] == bindparam(name) for name in Key._fields))
_RUN = tuple(name for name in Key._fields if name != "recipe_digest")
_OF_RUN = _WITH_TASKS.where(*(evaluations.c[name] == bindparam(name) for name in _RUN))
_MEASURES = select(measures).where(measures.c.evaluation_id == bindparam("id"))
_MEASURES_OF_RUN = (
    select(measures)
    .join(evaluations)
    .where(*(evaluations.c[name] == bindparam(name) for name in _RUN))
)
_NEXT = select(func.coalesce(func.max(evaluations.c.id) + 1, 1))
_ADD = insert(evaluations)
_ADD_TASKS = insert(task_scores)
_ADD_MEASURES = insert(measures)


def find(connection: Connection, key: Key) -> Evaluation | None:
    """The evaluation with this key, as it was recorded."""
    rows = connection.execute(_FIND, key._asdict()).all()
    if not rows:
        return None
    found = connection.execute(_MEASURES, {"id": rows[0].id})
    return _evaluation(rows, {one.name: one.value for one in found})


def load(
    connection: Connection, split: Split, fitness_digest: str, settings_digest: str
) -> Iterator[tuple[str, Evaluation]]:
    """Every recipe's digest and evaluation under one fitness and engine settings."""
    digests = {"fitness_digest": fitness_digest, "settings_digest": settings_digest}
    known: dict[int, dict[str, float]] = {}
    for one in connection.execute(_MEASURES_OF_RUN, {"split": split, **digests}):
        known.setdefault(one.evaluation_id, {})[one.name] = one.value
    rows = connection.execute(_OF_RUN, {"split": split, **digests})
    for number, group in groupby(rows, key=lambda row: row.id):
        tasks = list(group)
        yield tasks[0].recipe_digest, _evaluation(tasks, known.get(number, {}))


def _evaluation(rows: Sequence[Row[Any]], measured: Mapping[str, float]) -> Evaluation:
    row = rows[0]
    tasks = {
        task.task: TaskScores(
            score=task.score,
            doc_ids=tuple(json.loads(task.doc_ids)),
            example_scores=tuple(float(score) for score in json.loads(task.example_scores)),
        )
        for task in rows
        if task.task is not None
    }
    return Evaluation(
        tasks=tasks,
        measures=measured,
        error=row.error,
        worker=row.worker or "",
        **{name: getattr(row, name) for name in _PLAIN},
    )


def add(connection: Connection, key: Key, evaluation: Evaluation) -> Evaluation:
    """Insert an evaluation unless its key has one; returns the one that is there afterwards."""
    earlier = find(connection, key)
    if earlier is not None:
        return earlier
    _refuse_nan(key, evaluation)
    row = {
        "id": connection.execute(_NEXT).scalar_one(),
        **key._asdict(),
        **{name: getattr(evaluation, name) for name in _PLAIN},
        "error": _printable(evaluation.error),
        "worker": evaluation.worker or None,
        "created_utc": utc_now(),
    }
    connection.execute(_ADD, with_checksum(evaluations, row))
    tasks = [
        {
            "evaluation_id": row["id"],
            "task": task,
            "position": position,
            "score": scores.score,
            "examples": len(scores.example_scores),
            "doc_ids": to_json(scores.doc_ids),
            "example_scores": _scores_to_json(scores.example_scores),
        }
        for position, (task, scores) in enumerate(evaluation.tasks.items())
    ]
    if tasks:
        connection.execute(_ADD_TASKS, [with_checksum(task_scores, task) for task in tasks])
    measured = [
        {"evaluation_id": row["id"], "name": name, "value": value}
        for name, value in evaluation.measures.items()
    ]
    if measured:
        connection.execute(_ADD_MEASURES, [with_checksum(measures, one) for one in measured])
    return evaluation


def _scores_to_json(scores: Iterable[float]) -> str:
    """A JSON list of numbers; NaN and infinity, for which JSON has no number, become words."""
    return to_json([score if math.isfinite(score) else str(float(score)) for score in scores])


def _printable(text: str | None) -> str | None:
    """An error's text in a form that every database takes: no lone surrogates, no NUL."""
    if text is None:
        return None
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _refuse_nan(key: Key, evaluation: Evaluation) -> None:
    scores = {f"task {task}": scores.score for task, scores in evaluation.tasks.items()}
    if evaluation.value is not None:
        scores["the fitness"] = evaluation.value
    for name, score in scores.items():
        if math.isnan(score):
            raise StoreError(
                f"recipe {key.recipe_digest}: {name} is NaN. An evaluation has numbers, or the "
                "status 'failed' and no scores."
            )


class Spent(NamedTuple):
    """What one worker did: evaluations, whole or in part, its seconds by what for, and tokens."""

    worker: str
    evaluations: int
    merge_seconds: float
    generation_seconds: float
    score_seconds: float
    generated_tokens: int


def spent(connection: Connection, fitness_digest: str, settings_digest: str) -> list[Spent]:
    """Sums over the evaluations, by worker."""
    of_run = (evaluations.c.fitness_digest == fitness_digest) & (
        evaluations.c.settings_digest == settings_digest
    )
    columns = ("worker", *SPENT)
    both = union_all(
        select(*(evaluations.c[name] for name in columns)).where(of_run),
        select(*(portions.c[name] for name in columns)),
    ).subquery()
    sums = (
        select(
            both.c.worker,
            func.count().label("evaluations"),
            *(func.sum(both.c[name]).label(name) for name in SPENT),
        )
        .where(both.c.worker.is_not(None))
        .group_by(both.c.worker)
        .order_by(both.c.worker)
    )
    return [Spent(**row) for row in connection.execute(sums).mappings()]
