"""Scores by example, aligned by task and document: what optimizers that breed look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import SearchError
from evomerge.types import Evaluation, TaskScores

Scores = NDArray[np.float64]
_LARGEST = 1e100  # sums over all examples of all members of an archive are floats


class ExampleScores(NamedTuple):
    """One candidate's score on every example.

    Attributes:
        doc_ids: task to the (E,) documents that it was scored on, ascending; tasks by name.
        by_task: task to (E,) scores in that order, finite and not negative.
    """

    doc_ids: Mapping[str, Sequence[int]]
    by_task: Mapping[str, Scores]

    @property
    def all(self) -> Scores:
        """(E,) the scores of all tasks, one task after another."""
        return np.concatenate(list(self.by_task.values()))


def example_scores(evaluation: Evaluation) -> ExampleScores:
    """The evaluation's scores, ordered by task and document.

    NaN, infinity and what is below 0 count as 0, and what is above 1e100 as that. Where no task has
    example scores, the fitness stands for the score of a single example.
    """
    tasks = {name: evaluation.tasks[name] for name in sorted(evaluation.tasks)}
    if not any(task.example_scores for task in tasks.values()):
        value = 0.0 if evaluation.value is None else evaluation.value
        tasks = {"": TaskScores(value, (0,), (value,))}
    ordered = {name: _by_document(task) for name, task in tasks.items()}
    return ExampleScores(
        {name: task.doc_ids for name, task in ordered.items()},
        {name: _shares(task.example_scores) for name, task in ordered.items()},
    )


def require_same_documents(number: int, scores: ExampleScores, first: ExampleScores) -> None:
    """Raise where candidate ``number`` was scored on other documents than the first one.

    Raises:
        SearchError: with the documents in which they differ, by task.
    """
    if scores.doc_ids != first.doc_ids:
        known, got = _documents(first), _documents(scores)
        raise SearchError(
            f"candidate {number} was scored on other examples than those before it: it lacks "
            f"{_listed(known - got)}, and adds {_listed(got - known)}. "
            "Score every candidate on the same documents of every task."
        )


def _documents(scores: ExampleScores) -> set[tuple[str, int]]:
    return {(task, number) for task, numbers in scores.doc_ids.items() for number in numbers}


def _listed(documents: set[tuple[str, int]]) -> str:
    """The first four documents as text, and how many more there are."""
    few = ", ".join(f"{task} {number}".strip() for task, number in sorted(documents)[:4])
    return f"{few} and {len(documents) - 4} more" if len(documents) > 4 else few or "none"


def _by_document(task: TaskScores) -> TaskScores:
    ids = tuple(sorted(task.doc_ids))
    if ids == tuple(task.doc_ids):
        return task
    known = dict(zip(task.doc_ids, task.example_scores, strict=True))
    return TaskScores(task.score, ids, tuple(known[number] for number in ids))


def _shares(scores: Sequence[float]) -> Scores:
    shares = np.array(scores, np.float64)
    shares[~(shares > 0) | np.isinf(shares)] = 0.0
    return np.minimum(shares, _LARGEST)
