"""Lineages in recipes: what they may say, and how they travel."""

from __future__ import annotations

from typing import Any

import pytest

from evomerge.errors import RecipeError
from evomerge.recipes import Recipe
from evomerge.recipes.yaml import to_yaml
from evomerge.weights.library import read_recipe

PLAIN: dict[str, Any] = {"base": "b", "operator": "segments", "dtype": "float32"}
STEPS: list[dict[str, Any]] = [
    {"number": 2, "parents": ["x", "y"], "ends": [4, 9], "weights": [[0.5, 0.5], [0.1, 0.9]]},
    {"number": 7, "parents": [2], "ends": [9], "weights": [[1.0]], "sigma": 0.01},
]


def recipe(steps: list[dict[str, Any]], **more: Any) -> Recipe:
    content = {**PLAIN, "sources": {"x": "x", "y": "y"}, "lineage": {"steps": steps}, **more}
    return Recipe.model_validate(content)


def test_a_lineage_travels_as_json_and_as_yaml(tmp_path: Any) -> None:
    whole = recipe(STEPS)
    assert Recipe.from_canonical_json(whole.canonical_json()) == whole
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(whole), encoding="utf-8")
    assert read_recipe(path).lineage == whole.lineage


def test_other_noise_is_another_recipe() -> None:
    other = [STEPS[0], {**STEPS[1], "sigma": 0.02}]
    assert recipe(other).digest != recipe(STEPS).digest


def test_recipes_without_a_lineage_are_called_what_they_were() -> None:
    plain = Recipe.model_validate({**PLAIN, "sources": {"x": "x"}})
    assert "lineage" not in plain.canonical_json()


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        (1, {"number": 2}, r"lineage.steps.1.number: expected more than 2, got 2"),
        (1, {"parents": [5]}, r"lineage.steps.1.parents: 5 is neither a source nor an earlier"),
        (0, {"parents": ["x", "z"]}, r"lineage.steps.0.parents: 'z' is neither"),
        (0, {"ends": [9, 9]}, r"lineage.steps.0.ends: expected elements that ascend"),
        (0, {"ends": [0, 9]}, r"lineage.steps.0.ends: expected elements that ascend"),
        (0, {"ends": [4, 8]}, r"lineage.steps.0.ends: the last is 8, that of the last step 9"),
        (0, {"weights": [[1.0, 0.0]]}, r"lineage.steps.0.weights: expected 2 rows"),
        (0, {"weights": [[1.0], [0.0]]}, r"of 2 weights, one for each parent"),
        (1, {"weights": [[float("inf")]]}, r"Input should be a finite number"),
        (1, {"sigma": -1.0}, r"greater than or equal to 0"),
    ],
)
def test_steps_that_fit_nothing_are_refused(
    place: int, change: dict[str, Any], message: str
) -> None:
    steps = [dict(step) for step in STEPS]
    steps[place] |= change
    with pytest.raises(ValueError, match=message):
        recipe(steps)


def test_segments_and_a_lineage_are_not_given_together() -> None:
    segments = {"bounds": [0, 9], "rows": [[0.5, 0.5]]}
    with pytest.raises(ValueError, match="lineage: stands in place of segments"):
        recipe(STEPS, segments=segments)


def test_all_mistakes_of_a_lineage_are_reported_at_once(tmp_path: Any) -> None:
    whole = to_yaml(recipe(STEPS)).replace("number: 7", "number: 1").replace("y: y", "z: y")
    path = tmp_path / "recipe.yaml"
    path.write_text(whole, encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    assert len(caught.value.problems) == 2
