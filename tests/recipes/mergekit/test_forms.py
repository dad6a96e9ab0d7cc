"""mergekit's YAML as people write it: idle keys, empty ones, texts for numbers, adapters."""

from __future__ import annotations

from typing import Any

import pytest

from evomerge.errors import RecipeError
from evomerge.recipes import Recipe
from evomerge.recipes.mergekit import from_documents
from evomerge.yaml_files import parse_documents

PAIR = "models: [{model: o/a}, {model: o/b}]\n"
BASED = f"base_model: o/base\n{PAIR}"
LINEAR = f"merge_method: linear\n{PAIR}parameters: {{weight: 0.5}}\n"


def read(text: str, notes: list[str] | None = None) -> Recipe:
    """The recipe of a YAML text for models of 3 blocks; what has no effect goes into ``notes``."""
    found: list[str] = [] if notes is None else notes
    return from_documents(parse_documents(text, "m"), "m", lambda _: 3, None, found.append)


def noted(text: str) -> list[str]:
    """What has no effect."""
    notes: list[str] = []
    read(text, notes)
    return notes


# What mergekit ignores

IGNORED = "and ignores it."


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (f"{LINEAR}random_seed: 3\n", "m: random_seed: mergekit ignores this key."),
        (f"{LINEAR}model: x\n", "m: model: mergekit ignores this key. Did you mean 'models'?"),
        (
            LINEAR.replace("{model: o/b}", "{model: o/b, revision: v2}"),
            "m: models.1.revision: mergekit ignores this key. To take it, write model: o/b@v2",
        ),
        (
            LINEAR.replace("{model: o/b}", "{model: o/b, weight: 3}"),
            "m: models.1.weight: mergekit ignores this key.",
        ),
        (
            f"{LINEAR}tokenizer: {{source: base, token: 1}}\n",
            "m: tokenizer.token: mergekit ignores this key. Did you mean 'tokens'?",
        ),
        (
            LINEAR.replace("0.5", "[{filter: mlp, value: 1, x: 2}, {value: 1}]"),
            "m: parameters.weight.0.x: mergekit ignores this key.",
        ),
        (
            "merge_method: passthrough\nslices:\n"
            "- {sources: [{model: o/a, layer_range: [0, 3]}], residual_weight: 0.5}\n",
            "m: slices.0.residual_weight: mergekit ignores this key.",
        ),
    ],
)
def test_keys_that_mergekit_ignores_are_notes(text: str, note: str) -> None:
    assert noted(text) == [note]


@pytest.mark.parametrize(
    ("method", "parameter"),
    [
        ("model_stock", "weight: 0.5"),
        ("sce", "weight: 0.5"),
        ("sce", "density: 0.5"),
        ("slerp", "normalize: true"),
        ("karcher", "weight: 1"),
        ("ties", "gamma: 0.1"),
        ("ties", "epsilon: 0.1"),
        ("linear", "rescale: false"),
        ("nuslerp", "t: 0.5"),
        ("passthrough", "weight: 1"),
        ("ram", "weight: 1"),
    ],
)
def test_parameters_that_a_method_lacks_are_notes(method: str, parameter: str) -> None:
    models = "models: [{model: o/a}]\n" if method in ("slerp", "passthrough") else PAIR
    base = "" if method in ("nuslerp", "passthrough", "linear") else "base_model: o/base\n"
    needed = {"slerp": "t: 0.5, ", "linear": "weight: 1, ", "nuslerp": "weight: 1, "}
    needed["ties"] = "weight: 1, "
    start = f"merge_method: {method}\n{base}{models}parameters: {{{needed.get(method, '')}"
    name = parameter.partition(":")[0]
    assert noted(f"{start}{parameter}}}\n") == [
        f"m: parameters.{name}: mergekit's {method} has no such parameter, {IGNORED}"
    ]
    assert read(f"{start}{parameter}}}\n") == read(f"{start}}}\n")


def test_weight_in_arcee_fusion_and_of_each_model_is_a_note() -> None:
    text = "merge_method: arcee_fusion\nbase_model: o/base\n"
    text += "models: [{model: o/a, parameters: {weight: 1, x: {y: z}}}]\n"
    assert noted(text) == [
        f"m: models.0.parameters.weight: mergekit's arcee_fusion has no such parameter, {IGNORED}",
        f"m: models.0.parameters.x: mergekit's arcee_fusion has no such parameter, {IGNORED}",
    ]
    assert read(text).parameters == {}


def test_a_misspelt_parameter_is_a_note_that_names_the_right_one() -> None:
    text = f"merge_method: ties\n{BASED}parameters: {{weight: 1, densty: 0.5}}\n"
    assert noted(text) == [
        "m: parameters.densty: mergekit's ties has no such parameter, and ignores it. "
        "Did you mean 'density'?"
    ]


def test_parameters_of_all_models_have_no_effect_with_one() -> None:
    text = "merge_method: ties\nbase_model: o/base\nmodels:\n"
    text += "- {model: o/a, parameters: {weight: 1, lambda: 2}}\n"
    assert noted(text) == [
        "m: models.0.parameters.lambda: mergekit reads this from the parameters of all models "
        "alone, and ignores it here. Move it there if it is meant."
    ]
    assert "lam" not in read(text).parameters


def test_parameters_of_the_base_have_no_effect() -> None:
    text = "merge_method: ties\nbase_model: o/base\nmodels:\n"
    text += "- {model: o/base, parameters: {weight: 1}}\n- {model: o/a, parameters: {weight: 1}}\n"
    assert noted(text) == ["m: models.0.parameters: ties has none for the base model."]


def test_what_task_arithmetic_takes_and_does_not_use_is_a_note() -> None:
    text = f"merge_method: task_arithmetic\n{BASED}parameters: {{weight: 1, density: 0.5}}\n"
    assert noted(text) == ["m: parameters.density: mergekit's task_arithmetic ignores it."]


def test_a_file_without_idle_keys_has_no_notes() -> None:
    assert noted(f"{LINEAR}dtype: null\nout_dtype: null\nname: x\n") == []


# Empty keys, and texts in place of numbers


@pytest.mark.parametrize(
    "more",
    [
        "slices: null\nmodules: null\n",
        "slices: []\nmodules: {}\n",
        "dtype: null\nout_dtype: null\n",
        "tokenizer: null\ntokenizer_source: null\nchat_template: null\nbase_model: null\n",
    ],
)
def test_an_empty_key_is_none(more: str) -> None:
    assert read(LINEAR + more) == read(LINEAR)


def test_empty_models_stand_beside_slices_and_modules() -> None:
    text = "merge_method: passthrough\nmodels: null\n"
    slices = "slices: [{sources: [{model: o/a, layer_range: [0, 2], parameters: null}]}]\n"
    assert read(text + slices).slices == ({"a": (0, 2)},)
    module = "modules: {default: {models: [{model: o/a}], slices: null, parameters: null}}\n"
    assert read(text + module).sources == {"a": "o/a"}


def test_empty_parameters_and_settings_leave_the_next_ones() -> None:
    text = "merge_method: linear\nparameters: {weight: 0.25}\nmodels:\n"
    text += "- {model: o/a, parameters: null}\n- {model: o/b, parameters: {weight: []}}\n"
    assert read(text).parameters == {"weight": 0.25}


@pytest.mark.parametrize("setting", ["'0.5'", "['0.5']", "{value: '0.5'}", "[{value: '5e-1'}]"])
def test_a_number_may_be_text(setting: str) -> None:
    assert read(LINEAR.replace("0.5", setting)).parameters == {"weight": 0.5}


@pytest.mark.parametrize(
    ("flag", "value"),
    [("'false'", False), ("no", False), ("0", False), ("'off'", False), ("0.0", False),
     ("'True'", True), ("1", True), ("yes", True)],
)  # fmt: skip
def test_a_flag_may_be_text_or_a_number(flag: str, value: bool) -> None:
    one = read(f"{LINEAR.replace('0.5', f'0.5, normalize: {flag}')}")
    assert one.parameters["normalize"] is value


def test_a_range_of_blocks_may_be_text() -> None:
    text = "merge_method: passthrough\nslices:\n"
    text += "- sources: [{model: o/a, layer_range: ['0', 2.0]}]\n"
    assert read(text).slices == ({"a": (0, 2)},)


def test_gradients_go_by_filter() -> None:
    weight = "[{filter: mlp, value: [0, 1]}, {filter: self_attn, value: [1, 0.5, 0]}, {value: 2}]"
    assert read(LINEAR.replace("0.5", weight)).parameters["weight"] == {
        "mlp": [0.0, 0.5, 1.0], "attention": [1.0, 0.5, 0.0], "other": 2.0
    }  # fmt: skip


# Values that others refuse


def test_a_density_may_start_at_0() -> None:
    text = f"merge_method: ties\n{BASED}parameters: {{weight: 1, density: [0, 0.5, 1]}}\n"
    assert read(text).parameters["density"] == [0.0, 0.5, 1.0]


def test_a_density_beyond_its_ends_is_at_them() -> None:
    text = f"merge_method: ties\n{BASED}parameters: {{weight: 1, density: [-0.5, 0.5, 1.5]}}\n"
    assert read(text).parameters["density"] == [0.0, 0.5, 1.0]
    assert noted(text) == [
        "m: parameters.density: below 0 mergekit takes nothing, above 1 everything."
    ]


@pytest.mark.parametrize("t", ["-0.25", "1.5", "[1.25, 0.5, -1]"])
def test_slerp_may_go_beyond_its_ends(t: str) -> None:
    text = "merge_method: slerp\nbase_model: o/base\nmodels: [{model: o/a}]\n"
    found: Any = read(f"{text}parameters: {{t: {t}}}\n").parameters["t"]
    assert found == ([1.25, 0.5, -1.0] if "[" in t else float(t))


# Models


@pytest.mark.parametrize(
    ("model", "reference"),
    [
        ("o/b@v1", "o/b@v1"),
        ("{path: o/b}", "o/b"),
        ("{path: o/b, revision: v1}", "o/b@v1"),
        ("{model: o/b@v1}", "o/b@v1"),
        ("{model: {path: o/b, revision: v1}}", "o/b@v1"),
        ("{model: {path: o/b, revision: null}, lora: null, override_architecture: null}", "o/b"),
    ],
)
def test_a_model_has_several_forms(model: str, reference: str) -> None:
    text = LINEAR.replace("{model: o/b}", f"{{model: {model}}}")
    assert read(text).sources == {"a": "o/a", "b": reference}


@pytest.mark.parametrize(
    "model",
    ["o/base+o/lora@v1", "{model: o/base, lora: o/lora@v1}",
     "{model: {path: o/base}, lora: {path: o/lora, revision: v1}}"],
)  # fmt: skip
def test_an_adapter_on_the_base_is_a_source(model: str) -> None:
    text = f"merge_method: ties\nbase_model: o/base\nmodels: [{{model: {model}}}]\n"
    one = read(f"{text}parameters: {{weight: 1}}\n")
    assert (one.base, one.sources) == ("o/base", {"lora": "o/lora@v1"})


def test_an_adapter_on_another_model_is_added_to_it_first() -> None:
    text = "merge_method: linear\nmodels:\n- {model: o/a+o/x, parameters: {weight: 1}}\n"
    text += "- {model: o/b+o/y, parameters: {weight: 3}}\n"
    one = read(text)
    inner = {
        name: Recipe(base=base, sources={name: f"o/{name}"}, operator="linear", dtype="float32")
        for name, base in (("x", "o/a"), ("y", "o/b"))
    }
    assert one.sources == inner
    assert one.base == inner["x"]
    assert one.parameters == {"weight": {"x": 1.0, "y": 3.0}}


def test_adapters_go_on_the_merges_of_other_documents() -> None:
    text = f"name: first\n{LINEAR}---\nmerge_method: ties\nbase_model: o/base\n"
    text += "models: [{model: first+o/x}]\nparameters: {weight: 1}\n"
    inner = read(text).sources["x"]
    assert isinstance(inner, Recipe)
    assert inner.base == read(LINEAR)
    assert inner.sources == {"x": "o/x"}


def test_another_architecture_is_refused_with_what_to_do() -> None:
    text = LINEAR.replace("{model: o/b}", "{model: {model: o/b, override_architecture: X}}")
    with pytest.raises(RecipeError, match=r"models.1.model.override_architecture: .* config.json"):
        read(text)


def test_a_method_in_capitals_is_named() -> None:
    with pytest.raises(RecipeError, match=r"merge_method: 'Linear' .* Did you mean 'linear'?"):
        read(LINEAR.replace("linear", "Linear"))


def test_the_cure_of_another_dtype_works() -> None:
    assert read(f"{LINEAR}dtype: float64\nout_dtype: float32\n").dtype == "float32"
    with pytest.raises(RecipeError, match=r"out_dtype: expected float32, .* got 'bf16'. Set out_"):
        read(f"{LINEAR}out_dtype: bf16\n")


def test_tensors_may_be_missing_as_in_a_recipe() -> None:
    notes: list[str] = []
    one = read(f"{LINEAR}allow_missing: ['*.bias']\n", notes)
    assert (one.allow_missing, notes) == (("*.bias",), [])
    with pytest.raises(RecipeError, match="allow_missing"):
        read(f"{LINEAR}allow_missing: 3\n")


@pytest.mark.parametrize("name", ["[x]", "{x: 1}"])
def test_a_document_is_called_by_a_text(name: str) -> None:
    with pytest.raises(RecipeError, match="m: name: expected a text, got "):
        read(f"name: {name}\n{LINEAR}---\n{LINEAR}")


@pytest.mark.parametrize("value", [".inf", ".nan", "'1e400'", "[0, .inf]"])
def test_numbers_without_a_value_are_refused_where_they_stand(value: str) -> None:
    text = f"merge_method: multislerp\n{PAIR}parameters: {{weight: 1, eps: {value}}}\n"
    with pytest.raises(RecipeError, match=r"m: parameters.eps: expected a number"):
        read(text)
