"""A recipe has one form, one text and one digest."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from evomerge.recipes import Recipe


def recipe(**keys: Any) -> Recipe:
    """A recipe of two sources with the given keys on top."""
    keys = {
        "base": "org/base",
        "sources": {"math": "org/math", "ja": "org/ja"},
        "operator": "ties",
        "dtype": "bfloat16",
    } | keys
    return Recipe.model_validate(keys)


def weight(setting: Any) -> Any:
    """The canonical form of one setting."""
    return recipe(parameters={"weight": setting}).parameters["weight"]


def test_whole_numbers_become_floats() -> None:
    assert repr(weight(1)) == "1.0"


def test_a_negative_zero_is_zero() -> None:
    assert repr(weight(-0.0)) == "0.0"


def test_a_list_of_equal_values_is_one_value() -> None:
    assert weight([0.5, 0.5, 0.5]) == 0.5


def test_roles_that_say_what_other_says_are_dropped() -> None:
    assert weight({"mlp": 0.5, "norm": 0.2, "other": 0.5}) == {"norm": 0.2, "other": 0.5}


def test_roles_that_all_agree_become_one_value() -> None:
    assert weight({"mlp": 0.5, "other": 0.5}) == 0.5


def test_sources_that_all_agree_become_one_value() -> None:
    assert weight({"math": [1, 1], "ja": 1}) == 1.0


def test_a_value_for_one_source_alone_stays_its_own() -> None:
    assert weight({"math": 1}) == {"math": 1.0}


def test_sources_keep_the_order_of_the_recipe() -> None:
    assert list(weight({"ja": 2, "math": 1})) == ["math", "ja"]


def test_the_order_of_parameters_does_not_change_the_digest() -> None:
    one = recipe(parameters={"weight": 1, "density": 0.5})
    assert one.digest == recipe(parameters={"density": 0.5, "weight": 1}).digest


def test_the_order_of_sources_changes_the_digest() -> None:
    other = recipe(sources={"ja": "org/ja", "math": "org/math"})
    assert recipe().digest != other.digest


def test_the_digest_is_what_earlier_versions_computed() -> None:
    one = recipe(parameters={"weight": {"math": [0.1, 0.2], "ja": 1}, "density": 0.5}, seed=3)
    assert one.canonical_json() == (
        '{"base":"org/base","dtype":"bfloat16","operator":"ties","parameters":{"density":0.5,'
        '"weight":{"ja":1.0,"math":[0.1,0.2]}},"seed":3,'
        '"sources":[["math","org/math"],["ja","org/ja"]],"tokenizer":null}'
    )


def test_canonical_json_comes_back_with_its_sources_in_order() -> None:
    one = recipe(parameters={"weight": {"ja": 0.1, "math": 0.2}})
    again = Recipe.from_canonical_json(one.canonical_json())
    assert (again, list(again.sources)) == (one, ["math", "ja"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"maths": 1.0, "ja": 2.0}, "weight.maths: no such source. Did you mean 'math'?"),
        ({"mpl": 1.0, "other": 1.0}, "weight.mpl: no such role. Did you mean 'mlp'?"),
        (
            {"mlp": 1.0},
            "weight: no value for attention, norm, embedding, head. Add the key 'other'",
        ),
        ({}, "weight: empty"),
        ([], "weight: an empty list"),
        (float("nan"), "weight: expected a finite number"),
        (None, "weight: expected a finite number"),
        ([[1.0]], "weight: expected a finite number"),
        ({"math": {"mlp": [], "other": 1.0}}, "weight.math.mlp: an empty list"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_its_path(setting: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message.replace("?", r"\?")):
        weight(setting)


def test_a_source_may_not_have_the_name_of_a_role() -> None:
    with pytest.raises(ValidationError, match="a source may not be called 'mlp'"):
        recipe(sources={"mlp": "org/math"})


def test_a_recipe_needs_a_source() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        recipe(sources={})


def test_a_setting_is_looked_up_by_source_role_and_block() -> None:
    one = recipe(
        parameters={"weight": {"math": {"mlp": [0.1, 0.2], "other": 0.3}, "ja": 0.4}, "lam": 2}
    )
    assert one.setting("weight", "math", "mlp", 1) == 0.2
    assert one.setting("weight", "math", "norm", 1) == 0.3
    assert one.setting("weight", "ja", "mlp", 0) == 0.4
    assert one.setting("lam", None, "mlp", 0) == 2.0


def test_a_setting_that_is_not_given_is_none() -> None:
    one = recipe(parameters={"weight": {"math": 1}})
    assert one.setting("weight", "ja", "mlp", 0) is None
    assert one.setting("density", "ja", "mlp", 0) is None


def test_lists_names_every_list_and_its_length() -> None:
    one = recipe(parameters={"weight": {"math": {"mlp": [1, 2, 3], "other": 0}}, "lam": [1, 2]})
    assert one.lists() == [("lam", 2), ("weight.math.mlp", 3)]
