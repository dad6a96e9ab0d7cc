from __future__ import annotations

import pytest

from evomerge.errors import SearchError
from evomerge.scoring import Fitness
from evomerge.scoring.gains import gains, shortfall
from evomerge.types import Evaluation, TaskScores


def evaluation(**scores: float) -> Evaluation:
    tasks = {name: TaskScores(score, (0, 1), (score, score)) for name, score in scores.items()}
    measures = {"layers": 12.0}
    return Evaluation(
        "done",
        tasks,
        generation_seconds=3.0,
        generated_tokens=40,
        measures=measures,
    )


def fitness(objectives: dict[str, object] | None, **keys: object) -> Fitness:
    tasks = {"a": {"task": "a"}, "b": {"task": "b", "weight": 3}, "c": {"task": "c"}}
    return Fitness.model_validate({"tasks": tasks, "objectives": objectives, **keys})


SCORED = evaluation(a=0.2, b=0.4, c=0.9)
OTHER = {"tasks": ["c"]}


@pytest.mark.parametrize(
    ("objective", "gain"),
    [
        ({"tasks": ["a", "b"]}, 0.35),  # their weights in the fitness are 1 and 3
        ({"tasks": {"a": 1, "b": 1}}, 0.3),
        ({"tasks": ["a", "b"], "aggregate": "worst"}, 0.2),
        ({"tasks": {"a": 1, "b": 1}, "aggregate": "geometric_mean"}, 0.08**0.5),
        ({"tasks": {"a": 1, "b": 1}, "aggregate": "retention"}, (0.2 / 0.8 + 0.4 / 0.5) / 2),
        ({"measure": "layers"}, -12.0),
        ({"measure": "layers", "goal": "maximize"}, 12.0),
        ({"measure": "tokens"}, -40 / 6),
        ({"measure": "seconds"}, -3.0 / 6),
    ],
)
def test_every_kind_of_objective_has_its_number(objective: dict[str, object], gain: float) -> None:
    made = fitness({"x": objective, "other": OTHER})
    found = gains(made, SCORED, {"a": 0.8, "b": 0.5, "c": 1.0})
    assert found == {"x": pytest.approx(gain), "other": 0.9}


def test_without_objectives_each_task_has_its_score() -> None:
    assert gains(fitness(None), SCORED, {}) == {"a": 0.2, "b": 0.4, "c": 0.9}


def test_a_normalized_fitness_counts_in_shares_of_the_best_source() -> None:
    best = {"a": 0.8, "b": 0.5, "c": 0.0}
    found = gains(fitness(None, normalize="best_source"), SCORED, best)
    assert found == {"a": 0.25, "b": 0.8, "c": 0.9}  # no source solves c


def test_one_zero_makes_a_geometric_mean_zero() -> None:
    objective = {"tasks": ["a", "b"], "aggregate": "geometric_mean"}
    found = gains(fitness({"x": objective, "o": OTHER}), evaluation(a=0.0, b=1.0, c=1.0), {})
    assert found["x"] == 0.0


def test_a_failed_candidate_has_none() -> None:
    assert gains(fitness(None), Evaluation("failed", error="too large"), {}) == {}


def test_an_objective_without_all_its_tasks_is_left_out() -> None:
    """Not every task has held-out examples."""
    made = fitness({"ab": {"tasks": ["a", "b"]}, "c": OTHER}, floor={"ab": 0.9, "c": 0.5})
    found = gains(made, evaluation(a=1.0, c=0.4), {})
    assert found == {"c": 0.4}
    assert shortfall(made, found, {}) == pytest.approx(0.2)


def test_a_shortfall_is_the_sum_of_what_is_missing_relative_to_each_floor() -> None:
    made = fitness(None, floor={"a": 0.4, "b": "0.5 * source:one", "c": 0.1})
    one = {"a": 0.0, "b": 1.6, "c": 0.0}
    missing = shortfall(made, gains(made, SCORED, {}), {"one": one})
    assert missing == pytest.approx((0.4 - 0.2) / 0.4 + (0.8 - 0.4) / 0.8)
    assert shortfall(made, {"a": 0.4, "b": 0.8, "c": 0.1}, {"one": one}) == 0.0


def test_a_floor_of_a_source_that_was_not_scored_is_an_error() -> None:
    made = fitness(None, floor={"a": "source:one"})
    with pytest.raises(SearchError, match="source one does, which was not scored"):
        shortfall(made, {"a": 1.0, "b": 1.0, "c": 1.0}, {})
