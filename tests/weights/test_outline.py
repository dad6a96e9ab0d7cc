"""What is known of a merged model without a plan is what its plan says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import PlanError
from evomerge.recipes import Recipe
from evomerge.weights.library import Library
from evomerge.weights.outline import outline
from evomerge.weights.plan import make_plan

Tiny = Callable[..., Path]
MORE_WORDS = ("<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(36)), "new")


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"dtype": "float32"},
        {"dtype": "float16"},
        {"tokenizer": "union"},
        {"slices": [{"a": [0, 2]}, {"b": [1, 2]}], "scales": [0.5, -1.2, 1.0]},
        {"scales": [0.9, 1.1, 1.0], "parameters": {"weight": {"a": [0.1, 0.2, 0.3], "b": 1.0}}},
    ],
    ids=["plain", "wider", "as wide", "other rows", "stacked and scaled", "scaled"],
)
def test_places_shapes_folds_and_their_order_are_those_of_the_plan(
    keys: dict[str, Any], tiny: Tiny
) -> None:
    sources = {"a": str(tiny(1, words=MORE_WORDS if "tokenizer" in keys else MORE_WORDS[:-1]))}
    whole = {"base": str(tiny()), "sources": {**sources, "b": str(tiny(2))}, "operator": "linear"}
    recipe = Recipe.model_validate({"dtype": "bfloat16", **whole, **keys})
    around = {**whole, "base": recipe, "tokenizer": recipe.tokenizer}
    for one in (recipe, Recipe.model_validate({"dtype": "float32", **around})):
        models = Library().models(one)
        steps, found = make_plan(one, models).steps, outline(one, models)
        assert list(found.places.items()) == [(s.slot.name, s.slot.place) for s in steps]
        assert list(found.shapes.items()) == [(s.slot.name, s.slot.shape) for s in steps]
        assert list(found.folds.items()) == [(s.slot.name, s.fold) for s in steps]


@pytest.mark.parametrize(
    "keys", [{"scales": [1.0, 2.0]}, {"parameters": {"weight": [0.1, 0.2]}}], ids=["scales", "list"]
)
def test_a_list_that_has_not_one_value_a_block_is_refused_as_by_the_plan(
    keys: dict[str, Any], tiny: Tiny
) -> None:
    whole = {"base": str(tiny()), "sources": {"a": str(tiny(1))}, "operator": "linear"}
    recipe = Recipe.model_validate({"dtype": "float32", **whole, **keys})
    models, refusals = Library().models(recipe), []
    for function in (outline, make_plan):
        with pytest.raises(PlanError) as caught:
            function(recipe, models)
        refusals.append(caught.value.problems)
    assert refusals[0] == refusals[1]
