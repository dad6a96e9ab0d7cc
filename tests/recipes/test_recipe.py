"""A recipe has one form, one text and one digest."""

from __future__ import annotations

import copy
import doctest
import pickle
from typing import Any

import pytest
from pydantic import ValidationError

from evomerge.recipes import Recipe, Tokenizer
from evomerge.recipes import recipe as recipe_module

OLD_DIGEST = "73bcd6c4e6816d8744f4fcefb3f62ec0597cf74ad68f427b86f1028f8e96034d"


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
    assert one.setting("weight", "math", "mlp", 1, "") == 0.2
    assert one.setting("weight", "math", "norm", 1, "") == 0.3
    assert one.setting("weight", "ja", "mlp", 0, "") == 0.4
    assert one.setting("lam", None, "mlp", 0, "") == 2.0


def test_a_setting_that_is_not_given_is_none() -> None:
    one = recipe(parameters={"weight": {"math": 1}})
    assert one.setting("weight", "ja", "mlp", 0, "") is None
    assert one.setting("density", "ja", "mlp", 0, "") is None


def test_lists_names_every_list_and_its_length() -> None:
    one = recipe(parameters={"weight": {"math": {"mlp": [1, 2, 3], "other": 0}}, "lam": [1, 2]})
    assert one.lists() == [("lam", 2), ("weight.math.mlp", 3)]


# Filters


def test_lines_with_filters_are_looked_up_by_tensor_name() -> None:
    lines = [{"filter": "q_proj", "value": [1, 2]}, {"filter": "*", "value": 3}]
    one = recipe(parameters={"weight": {"math": lines, "ja": 4}})
    assert one.setting("weight", "math", "attention", 1, "layers.1.q_proj.weight") == 2.0
    assert one.setting("weight", "math", "attention", 1, "layers.1.k_proj.weight") == 3.0
    assert one.setting("weight", "ja", "attention", 1, "layers.1.q_proj.weight") == 4.0
    assert one.lists() == [("weight.math.0", 2)]


def test_without_a_line_for_all_the_others_have_no_value() -> None:
    one = recipe(parameters={"lam": {"filter": "mlp", "value": 2}})
    assert one.setting("lam", None, "mlp", 0, "layers.0.mlp.weight") == 2.0
    assert one.setting("lam", None, "norm", 0, "model.norm.weight") is None


@pytest.mark.parametrize(
    ("lines", "canonical"),
    [
        ([{"value": 1}], 1.0),
        ([{"filter": "a", "value": 1}, {"value": [1, 1]}, {"value": 2}], 1.0),
        ([{"filter": "", "value": 1}, {"filter": "a", "value": 2}], 1.0),
        (
            [{"filter": "a", "value": 1}, {"filter": "ab", "value": 2}, {"value": 0}],
            [{"filter": "a", "value": 1.0}, {"value": 0.0}],
        ),
        (
            [{"filter": "a", "value": 0}, {"filter": "b", "value": 1}, {"value": 0}],
            [{"filter": "a", "value": 0.0}, {"filter": "b", "value": 1.0}, {"value": 0.0}],
        ),
    ],
)
def test_lines_that_change_nothing_are_dropped(lines: Any, canonical: Any) -> None:
    assert weight(lines) == canonical


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"filter": "a"}], "weight.0: expected the keys filter and value, got"),
        ([{"value": 1}, 2][::-1], "weight.0: expected the keys filter and value, got 2"),
        ([{"filter": 1, "value": 1}], "weight.0.filter: expected a part of tensor names, got 1"),
        ([{"value": 1, "filtr": "a"}], "weight.0.filtr: no such key. Did you mean 'filter'?"),
        ({"math": [{"value": []}]}, "weight.math.0.value: an empty list"),
    ],
)
def test_lines_that_make_no_sense_are_refused(lines: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        weight(lines)
    assert message in str(caught.value)


# Slices, modules, tokenizer, chat template


def test_slices_name_the_base_first() -> None:
    one = recipe(slices=[{"ja": [0, 2], "base": [1, 3]}, {"math": [0, 3]}])
    assert [list(slice_.items()) for slice_ in one.slices] == [
        [("base", (1, 3)), ("ja", (0, 2))],
        [("math", (0, 3))],
    ]
    assert (one.depth, recipe().depth) == (5, None)


def test_scales_of_one_are_none() -> None:
    plain = recipe(slices=[{"ja": [0, 2]}])
    assert recipe(slices=[{"ja": [0, 2]}], scales=[1, 1.0]).digest == plain.digest
    assert recipe(scales=[1, -2]).scales == (1.0, -2.0)


def test_modules_inside_others_are_dropped() -> None:
    assert recipe(modules=["b.c", "a.", "b", "bc"]).modules == ("a", "b", "bc")


def test_a_tokenizer_that_says_no_more_than_a_word_is_one() -> None:
    assert recipe(tokenizer={"source": "ja"}).tokenizer == "ja"
    assert recipe(tokenizer={"source": "ja"}).digest == recipe(tokenizer="ja").digest


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"slices": [{"maths": (0, 1)}]}, "slices.0.maths: no such source. Did you mean 'math'?"),
        ({"slices": [{"math": (1, 1)}]}, "slices.0.math: expected 0 <= start < end, got [1, 1]"),
        ({"slices": [{"base": (0, 1)}]}, "slices.0: expected the range of at least one source"),
        ({"slices": [{"math": (0, 1)}, {}]}, "slices.1: expected the range of at least one source"),
        (
            {"slices": [{"math": (0, 2), "ja": (0, 3)}]},
            "slices.0: the ranges differ in length: math 2, ja 3 blocks",
        ),
        (
            {"sources": {"base": "other"}, "slices": [{"base": (0, 1)}]},
            "slices: a source is called 'base', but is another model. Rename it.",
        ),
        ({"scales": [1, 0]}, "scales.1: expected a magnitude in [0.0001, 10000], got 0. Cho"),
        ({"scales": [float("nan")]}, "scales.0\n  Input should be a finite number"),
        ({"scales": ["2"]}, "scales.0"),
        ({"scales": [True]}, "0: expected a number, got true"),
        (
            {"slices": [{"math": (0, 3)}], "scales": [2.0, 1.0]},
            "scales: 2 values, but the slices have 3 blocks. Give one value a block.",
        ),
        (
            {"scales": [1e4] * 8},
            "scales.7: the scales up to here multiply to 1e+32, which float32 weights",
        ),
        ({"modules": ["."]}, "modules: expected a prefix, got '.'"),
        ({"statistics": {"maths": "s"}}, "statistics.maths: no such source. Did you mean 'math'?"),
        ({"tokenizer": "bas"}, "tokenizer: no such source: bas. Did you mean 'base'?"),
        ({"tokenizer": {"tokens": {"x": {}}}}, "tokenizer.tokens.x: expected either a source or"),
        (
            {"tokenizer": {"tokens": {"x": {"source": "maht"}}}},
            "tokenizer.tokens.x.source: no such source: maht. Did you mean 'math'?",
        ),
        (
            {"tokenizer": {"tokens": {"x": {"source": "ja", "token": "y", "token_id": 1}}}},
            "tokenizer.tokens.x: expected a token or a token_id, got both",
        ),
        (
            {"tokenizer": {"tokens": {"x": {"zero": True, "token": "y"}}}},
            "tokenizer.tokens.x: a row of zeros has no token. Remove the key",
        ),
        ({"chat_template": "chatlm"}, "nor a known name. Did you mean 'chatml'?"),
    ],
)
def test_what_makes_no_sense_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        recipe(**keys)
    assert message in str(caught.value)


def test_every_mistake_is_reported_at_once() -> None:
    with pytest.raises(ValidationError) as caught:
        recipe(
            parameters={"weight": {"maths": 1, "ja": 2, "jo": 3}, "lam": []},
            slices=[{"x": (0, 1)}],
            tokenizer="y",
        )
    (error,) = caught.value.errors()
    assert len(error["msg"].splitlines()) == 5


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))]
)
def test_a_recipe_whose_digest_was_asked_for_is_still_the_same(again: Any) -> None:
    base, fresh = recipe(), recipe(base=recipe())
    assert base.digest == recipe().digest
    asked = recipe(base=base)
    assert asked.digest == fresh.digest
    assert asked == recipe(base=recipe()) == again(asked)
    assert again(asked).digest == asked.digest
    assert asked.model_copy(update={"seed": 1}).digest != asked.digest


# VirtualCheckpoint recipes, and what is hashed

EVERYTHING: dict[str, Any] = {
    "base": recipe(operator="linear"),
    "sources": {"math": recipe(operator="slerp", sources={"x": "y"}), "ja": "org/ja"},
    "parameters": {"weight": {"ja": [{"filter": "mlp", "value": [1, 2]}, {"value": 3}]}},
    "slices": [{"math": [0, 1]}, {"ja": [1, 2]}],
    "scales": [0.1 + 0.2, -1.5],
    "modules": ["model"],
    "statistics": {"ja": "/stats"},
    "tokenizer": {"tokens": {"z": {"zero": True}, "a": {"source": "ja"}}},
    "chat_template": "auto",
    "experimental": True,
}


def test_a_recipe_with_everything_comes_back_from_its_json() -> None:
    one = recipe(**EVERYTHING)
    again = Recipe.from_canonical_json(one.canonical_json())
    assert (again, again.digest) == (one, one.digest)
    assert isinstance(again.tokenizer, Tokenizer)
    assert list(again.tokenizer.tokens) == ["z", "a"]  # the order of the rows that are added


@pytest.mark.parametrize("key", [key for key in EVERYTHING if key != "sources"])
def test_every_key_counts_for_the_digest(key: str) -> None:
    assert recipe(**{key: EVERYTHING[key]}).digest != recipe().digest


def test_all_references_are_located() -> None:
    one = recipe(**EVERYTHING).located(lambda model: f"/x/{model}")
    assert one.sources["ja"] == "/x/org/ja"
    assert isinstance(one.base, Recipe)
    assert (one.base.base, one.statistics) == ("/x/org/base", {"ja": "/x//stats"})


def test_the_digest_of_an_old_recipe_is_unchanged() -> None:
    # computed by the first version, which had none of these keys
    assert recipe(parameters={"weight": 1, "density": 0.5}, tokenizer="base").digest == OLD_DIGEST


def test_the_example_in_the_docstring_runs() -> None:
    assert doctest.testmod(recipe_module) == (0, 2)
