"""Example scores are aligned by task and document, in every optimizer that breeds."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.errors import SearchError
from evomerge.optimizers import Optimizer
from evomerge.optimizers.m2n2 import M2n2
from evomerge.optimizers.map_elites import MapElites
from evomerge.types import Evaluation, Parameter, TaskScores

CROSSED = (
    Parameter("source", "choice", "math", choices=("math", "code", "chat")),
    *(Parameter(f"{kind}[all]", "float", 0.5) for kind in ("split", "ratio")),
)


def with_ids(**tasks: dict[int, float]) -> Evaluation:
    """An evaluation with these scores by task and document."""
    found = {name: TaskScores(0.0, tuple(by), tuple(by.values())) for name, by in tasks.items()}
    return Evaluation("done", found, value=0.0)


def test_scores_are_aligned_by_document_and_not_by_position() -> None:
    optimizer = M2n2(CROSSED, 3)
    for number, evaluation in enumerate(
        (with_ids(a={3: 1, 8: 0}, b={5: 0.5}), with_ids(b={5: 0.25}, a={8: 0.75, 3: 0}))
    ):
        optimizer.ask(number)
        optimizer.tell(number, evaluation)
    assert optimizer.archive.scores.tolist() == [[1, 0, 0.5], [0, 0.75, 0.25]]


def test_the_order_in_which_documents_were_scored_changes_no_child() -> None:
    rng = np.random.default_rng(0)
    straight, shuffled = M2n2(CROSSED, 3, population_size=4), M2n2(CROSSED, 3, population_size=4)
    for number in range(30):
        assert straight.ask(number) == shuffled.ask(number)
        scores = dict(enumerate(rng.random(9).tolist()))
        straight.tell(number, with_ids(task=scores))
        shuffled.tell(number, with_ids(task={n: scores[n] for n in rng.permutation(9).tolist()}))
    assert straight.archive.numbers == shuffled.archive.numbers


@pytest.mark.parametrize(
    ("other", "differences"),
    [
        ({"a": {3: 1, 8: 0}}, "it lacks b 5, and adds none"),
        ({"a": {3: 1, 9: 0}, "b": {5: 1}}, "it lacks a 8, and adds a 9"),
        ({"a": {3: 1, 8: 0}, "c": {5: 1}}, "it lacks b 5, and adds c 5"),
        (
            {"a": {3: 1, 8: 0}, "b": dict.fromkeys(range(12), 1.0)},
            "it lacks none, and adds b 0, b 1, b 2, b 3 and 7 more",
        ),
    ],
    ids=["a task less", "another document", "another task", "more documents"],
)
@pytest.mark.parametrize("kind", [M2n2, MapElites])
def test_scores_of_other_documents_than_before_are_refused_by_name(
    kind: type[Optimizer], other: dict[str, dict[int, float]], differences: str
) -> None:
    optimizer = kind(CROSSED, 3)
    for number in range(2):
        optimizer.ask(number)
    optimizer.tell(0, with_ids(a={3: 1, 8: 0}, b={5: 0.5}))
    with pytest.raises(SearchError, match=f"candidate 1 was scored on other .*: {differences}"):
        optimizer.tell(1, with_ids(**other))
