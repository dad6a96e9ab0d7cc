"""MAP-Elites: which cell a candidate belongs to, who keeps it, who becomes a parent."""

from __future__ import annotations

from typing import Any

import pytest

from evomerge.errors import ConfigError
from evomerge.optimizers.map_elites import Elite, MapElites
from evomerge.types import Evaluation, Parameter, TaskScores

CROSSED = (
    Parameter("source", "choice", "math", choices=("math", "code")),
    Parameter("split[all]", "float", 0.5),
    Parameter("ratio[all]", "float", 0.5),
)


def scored(**tasks: list[float]) -> Evaluation:
    found = {
        name: TaskScores(0.0, tuple(range(len(scores))), tuple(scores))
        for name, scores in tasks.items()
    }
    return Evaluation("done", found, value=0.0)


def with_results(*evaluations: Evaluation, **options: Any) -> MapElites:
    optimizer = MapElites(CROSSED, 0, **options)
    for number, evaluation in enumerate(evaluations):
        assert optimizer.ask(number) is not None
        optimizer.tell(number, evaluation)
    return optimizer


def test_the_cell_is_the_mean_score_on_each_of_two_tasks() -> None:
    optimizer = with_results(scored(a=[1, 1], b=[0, 1]), scored(a=[0, 0], b=[0.25, 0.25]))
    assert optimizer.archive.elites == {(9, 5): Elite(0, 0.75), (0, 2): Elite(1, 0.125)}


def test_a_better_candidate_takes_a_cell_and_an_equal_one_does_not() -> None:
    first, second = scored(a=[0.5], b=[0.5]), scored(a=[0.5625], b=[0.5])
    assert with_results(first, second).archive.elites == {(5, 5): Elite(1, 0.53125)}
    assert with_results(second, first).archive.elites == {(5, 5): Elite(0, 0.53125)}
    assert with_results(first, first).archive.elites[5, 5].number == 0


def test_other_tasks_may_be_named() -> None:
    evaluation = scored(a=[0.15], b=[0.35], c=[0.75])
    assert list(with_results(evaluation, descriptors=["c", "a"]).archive.elites) == [(7, 1)]
    assert list(with_results(evaluation).archive.elites) == [(1, 3)]


def test_one_task_is_described_by_its_halves() -> None:
    assert list(with_results(scored(a=[1, 1, 0, 0.5])).archive.elites) == [(9, 2)]


def test_halves_are_those_of_the_documents_in_order() -> None:
    task = TaskScores(0.0, (7, 2, 9, 4), (0.0, 1.0, 0.5, 1.0))
    assert list(with_results(Evaluation("done", {"a": task})).archive.elites) == [(9, 2)]


def test_parents_are_elites_all_equally_likely() -> None:
    optimizer = with_results(scored(a=[1], b=[0]), scored(a=[0], b=[1]))
    optimizer.ask(2)
    optimizer.tell(2, scored(a=[0], b=[0.95]))  # in the cell of 1, and worse
    parents = [
        parent
        for number in range(3, 203)
        if (genome := optimizer.ask(number)) is not None
        for parent in genome.parents
    ]
    assert set(parents) == {0, 1}
    assert 150 < parents.count(0) < 250


@pytest.mark.parametrize("descriptors", [["a"], ["a", "a"], ["a", "b", "c"]])
def test_other_than_two_descriptors_are_refused(descriptors: list[str]) -> None:
    with pytest.raises(ConfigError, match="expected two tasks of the fitness"):
        MapElites(CROSSED, 0, descriptors=descriptors)


def children(*rows: tuple[list[float], list[float]]) -> set[tuple[int, ...]]:
    """The parents of many children, of elites with these scores on two tasks."""
    optimizer = MapElites(CROSSED, 3, parents="score", descriptors=["a", "b"])
    for number, (a, b) in enumerate(rows):
        optimizer.ask(number)
        optimizer.tell(number, scored(a=a, b=b))
    found = [optimizer.ask(number) for number in range(len(rows), 60)]
    return {tuple(sorted(genome.parents)) for genome in found if genome is not None}


def test_parents_drawn_by_score_are_never_one_that_solves_nothing() -> None:
    assert children(([1, 1], [0, 0]), ([0, 0], [1, 0]), ([0, 0], [0, 0])) == {
        *((0, 0), (0, 1), (1, 1))
    }


def test_parents_drawn_by_score_are_two_once_scores_sum_to_two() -> None:
    pairs = children(([1, 1], [0.5, 0.5]), ([0.5, 0.5], [1, 1]), ([1, 1], [0, 0]))
    assert pairs == {(0, 1), (0, 2), (1, 2)}
