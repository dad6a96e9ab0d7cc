"""Searches of several objectives, and with floors, as their YAML says it."""

from __future__ import annotations

from typing import Any

import pytest
from small_search import SMALL, skills

from evomerge.config.estimate import estimate
from evomerge.config.load import LoadedSearch, load
from evomerge.errors import ConfigError
from evomerge.optimizers.optuna import Optuna

OBJECTIVES = {"objectives": {"maths": {"tasks": ["arithmetic"]}, "texts": {"tasks": ["strings"]}}}
MANY = skills(held_out_examples=8, search_examples=80)


def loaded(fitness: dict[str, Any] | None = None, **changes: Any) -> LoadedSearch:
    content: dict[str, Any] = SMALL | {"budget": {"evaluations": 60}, "optimizer": "cmaes"}
    return load(content | {"fitness": MANY | (fitness or {})} | changes)


def problems(fitness: dict[str, Any] | None = None, **changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(fitness, **changes)
    return str(caught.value)


def test_a_search_of_several_objectives_asks_everything() -> None:
    assert loaded().search.stages[0].racing is not None
    (stage,) = loaded(OBJECTIVES).search.stages
    assert stage.racing is None
    assert stage.not_raced == "a front is made of candidates that were asked all examples."


def test_check_says_what_is_weighed_and_what_must_be_reached() -> None:
    objectives = {"objectives": ["arithmetic", "layers"], "floor": {"arithmetic": 0.5}}
    facts = estimate(loaded(objectives))
    assert facts["objectives"] == {"arithmetic": "maximize", "layers": "minimize"}
    assert facts["floors"] == {"arithmetic": 0.5}
    assert "objectives" not in estimate(loaded())


def test_optuna_is_told_the_objectives_that_a_search_names() -> None:
    options = {"name": "optuna", "sampler": "NSGAIISampler"}
    for fitness, count in ((None, 1), (OBJECTIVES, 2)):
        (stage,) = loaded(fitness, optimizer=options).search.stages
        optimizer = stage.new_optimizer(stage.space.parameters)
        assert isinstance(optimizer, Optuna)
        assert len(optimizer._study.directions) == count


@pytest.mark.parametrize(
    ("fitness", "changes", "says"),
    [
        ({"floor": {"strings": "source:string"}}, {}, "floor.strings: 'string' is no source. Did"),
        ({"floor": {"strings": 0.5}}, {"racing": True}, "floors are for scores on all examples"),
        (OBJECTIVES, {"racing": True, "optimizer": "pareto"}, "pareto learns from all examples"),
        ({}, {"optimizer": "pareto", "budget": {"seconds": 60}}, "budget: the optimizer takes"),
        ({}, {"optimizer": {"name": "pareto", "corners": 0.5}}, "corners: 0.5 of 2 objectives"),
        (
            OBJECTIVES,
            {"optimizer": {"name": "optuna", "sampler": "CmaEsSampler"}},
            "optimizer.sampler: CmaEsSampler takes one objective",
        ),
        (
            {"objectives": {**OBJECTIVES["objectives"], "depth": {"measure": "layers"}}},
            {"optimizer": "como"},
            "front of two objectives",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    fitness: dict[str, Any], changes: dict[str, Any], says: str
) -> None:
    assert says in problems(fitness, **changes)


def test_mistakes_in_objectives_and_elsewhere_are_told_together() -> None:
    said = problems({"floor": {"strings": "source:string"}}, engine="transformer", seed=-1)
    assert all(one in said for one in ("is no source", "transformer", "seed"))
