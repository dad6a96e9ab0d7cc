"""What else mergekit's language has: slices, modules, tokenizers, its dialect, many documents."""

from __future__ import annotations

from typing import Any

import pytest

from evomerge.errors import ExportError, RecipeError
from evomerge.recipes import Recipe, Tokenizer
from evomerge.recipes.mergekit import from_documents, to_mergekit
from evomerge.recipes.places import Place
from evomerge.yaml_files import parse_documents, parse_yaml

LAYERS = 6
BLOCK = {"input_layernorm": "norm", "self_attn.q_proj": "attention", "mlp.up_proj": "mlp"}


def places(model: str, layers: int = LAYERS) -> dict[str, Place]:
    """The tensors of a model; one whose name has ``vl`` in it sees."""
    start = "language_model." if "vl" in model else ""
    found = {f"{start}model.embed_tokens.weight": Place(None, "embedding")}
    for layer in range(layers):
        for name, role in BLOCK.items():
            found[f"{start}model.layers.{layer}.{name}.weight"] = Place(layer, role)
    found[f"{start}model.norm.weight"] = Place(None, "norm")
    found[f"{start}lm_head.weight"] = Place(None, "head")
    towers = ("vision_tower.blocks.0.mlp.weight", "multi_modal_projector.linear.weight")
    return found | (dict.fromkeys(towers, Place(None, "other")) if start else {})


def read(text: str) -> Recipe:
    """The recipe of a YAML text."""
    return from_documents(parse_documents(text, "m.yaml"), "m.yaml", lambda m: LAYERS, places)


def complaint(text: str) -> str:
    """Why a YAML is not read."""
    with pytest.raises(RecipeError) as caught:
        read(text)
    return str(caught.value)


def write(one: Recipe) -> str:
    """The YAML text of a recipe."""
    tensors = places(str(one.base), one.depth or LAYERS)
    return to_mergekit(one, tensors, dict.fromkeys(tensors, (4, 4)))


def exported(one: Recipe) -> dict[str, Any]:
    """The YAML of a recipe, parsed."""
    return parse_yaml(write(one), "m.yaml")


def refusal(one: Recipe) -> str:
    """Why a recipe is not written."""
    with pytest.raises(ExportError) as caught:
        write(one)
    return str(caught.value)


def recipe(operator: str, **keys: Any) -> Recipe:
    """A recipe of the models ``o/a`` and ``o/b`` over ``o/base``."""
    content = {
        "base": "o/base",
        "sources": {"a": "o/a", "b": "o/b"},
        "operator": operator,
        "dtype": "bfloat16",
    }
    return Recipe.model_validate(content | keys)


# Slices

STACK = """
merge_method: passthrough
slices:
- sources: [{model: o/a, layer_range: [0, 4]}]
- sources: [{model: o/b, layer_range: [3, 6], parameters: {scale: 0.5}}]
"""


def test_slices_of_several_models_are_stacked() -> None:
    one = read(STACK)
    assert one.slices == ({"a": (0, 4)}, {"b": (3, 6)})
    assert (one.base, one.depth, one.parameters) == ("o/a", 7, {"scale": {"b": 0.5}})


def test_a_slice_of_all_blocks_is_none() -> None:
    text = "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 6]}]}]\n"
    assert read(f"{text}parameters: {{weight: 1}}").slices == ()


def test_a_part_of_a_model_is_a_slice() -> None:
    text = "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 5]}]}]\n"
    assert read(f"{text}parameters: {{weight: 1}}").slices == ({"a": (0, 5)},)


def test_the_base_has_blocks_of_its_own() -> None:
    text = """
merge_method: ties
base_model: o/base
slices:
- sources: [{model: o/a, layer_range: [0, 3]}, {model: o/base, layer_range: [2, 5]}]
parameters: {weight: 1}
"""
    assert read(text).slices == ({"base": (2, 5), "a": (0, 3)},)
    assert read(write(read(text))) == read(text)


def test_a_model_twice_in_a_slice_is_two_sources() -> None:
    text = """
merge_method: linear
slices:
- sources: [{model: o/a, layer_range: [0, 3], parameters: {weight: 0.2}},
            {model: o/a, layer_range: [3, 6]}]
parameters: {weight: 1}
"""
    one = read(text)
    assert one.sources == {"a": "o/a", "a-2": "o/a"}
    assert one.slices == ({"a": (0, 3), "a-2": (3, 6)},)
    assert one.parameters == {"weight": {"a": 0.2, "a-2": 1.0}}


def test_slices_that_name_different_bases_are_refused() -> None:
    text = "merge_method: ties\nparameters: {weight: 1}\nslices:\n"
    text += "- {sources: [{model: a, layer_range: [0, 3]}], base_model: x}\n"
    text += "- {sources: [{model: a, layer_range: [3, 6]}], base_model: y}\n"
    assert "slices.1.base_model: evomerge has one base for all slices" in complaint(text)


def test_a_gradient_is_of_one_slice_and_the_tensors_after_it_read_its_start() -> None:
    text = """
merge_method: slerp
base_model: o/a
slices:
- sources: [{model: o/a, layer_range: [0, 3]}, {model: o/b, layer_range: [0, 3]}]
  parameters: {t: [0, 1]}
- sources: [{model: o/a, layer_range: [3, 6]}, {model: o/b, layer_range: [3, 6]}]
  parameters: {t: [0.75, 0.25]}
"""
    one = read(text)
    assert one.slices == ()
    found = [one.setting("t", None, "mlp", n, f"model.layers.{n}.mlp.up_proj.weight")
             for n in range(6)]  # fmt: skip
    assert found == [0, 0.5, 1, 0.75, 0.5, 0.25]
    assert one.setting("t", None, "embedding", 0, "model.embed_tokens.weight") == 0
    assert one.setting("t", None, "head", 0, "lm_head.weight") == 0.75
    assert one.setting("t", None, "norm", 0, "model.norm.weight") == 0.75


def test_a_filter_for_one_block_means_the_source_s_block() -> None:
    text = """
merge_method: passthrough
slices:
- sources: [{model: o/a, layer_range: [0, 2]}]
- sources: [{model: o/a, layer_range: [0, 2]}]
parameters: {scale: [{filter: layers.1., value: 2}, {value: 1}]}
"""
    one = read(text)
    assert one.parameters == {"scale": [1.0, 2.0, 1.0, 2.0]}


# The dialect

SETTINGS = {
    "dare_linear": ("rescale", "l1"),
    "della": ("rescale", "l1"),
    "model_stock": ("clamp", False),
    "sce": ("coefficient_floor", 1e-6),
}
NEEDED = {"dare_linear": "{weight: 1}", "della": "{weight: 1}"}


@pytest.mark.parametrize("method", SETTINGS)
def test_the_dialect_chooses_mergekits_numbers(method: str) -> None:
    text = f"merge_method: {method}\nbase_model: o/base\nmodels: [{{model: o/a}}, {{model: o/b}}]\n"
    text += f"parameters: {NEEDED.get(method, '{}')}\n"
    name, value = SETTINGS[method]
    assert name not in read(text).parameters
    one = read(f"{text}dialect: mergekit\n")
    assert one.parameters[name] == value
    assert exported(one)["dialect"] == "mergekit"
    assert read(write(one)) == one


@pytest.mark.parametrize(
    ("flags", "axis", "dialect"),
    [
        ("", None, None),
        ("nuslerp_row_wise: true", None, None),  # without effect while it is flat
        ("nuslerp_flatten: false", "col", "row"),
        ("nuslerp_flatten: false, nuslerp_row_wise: true", "row", "col"),
    ],
)
def test_rows_are_rows_but_in_the_dialect(
    flags: str, axis: str | None, dialect: str | None
) -> None:
    text = "merge_method: nuslerp\nmodels: [{model: o/a}, {model: o/b}]\n"
    text += f"parameters: {{weight: 1, {flags}}}\n"
    assert read(text).parameters.get("axis") == axis
    one = read(f"{text}dialect: mergekit\n")
    assert one.parameters.get("axis") == dialect
    for other in (one, read(text)):
        assert read(write(other)) == other


def test_in_the_dialect_subtracted_sources_vote() -> None:
    text = "merge_method: ties\nbase_model: o/base\nmodels:\n- model: o/a\n- model: o/b\n"
    text += "  parameters: {weight: [1, -0.5]}\nparameters: {weight: 1, normalize: false}\n"
    assert "negative" not in read(text).parameters
    assert read(f"{text}dialect: mergekit").parameters["negative"] == "elect"
    divided = text.replace("false", "true")
    assert "lose their sign" in complaint(f"{divided}dialect: mergekit")


def test_a_sum_of_magnitudes_is_restored_before_election() -> None:
    text = "merge_method: breadcrumbs_ties\nbase_model: o/base\nmodels: [{model: o/a}]\n"
    text += "parameters: {weight: 1, density: 0.5, gamma: 0.1, rescale: true}\n"
    one = read(text)
    assert one.parameters == {
        "sparsify_density": 0.5,
        "sparsify_gamma": 0.1,
        "sparsify_method": "breadcrumbs",
        "sparsify_rescale": "l1",
        "weight": 1.0,
    }
    assert exported(one)["parameters"] == {"rescale": True}
    assert exported(one)["models"][0]["parameters"]["gamma"] == 0.1
    assert read(write(one)) == one


# Parameters of other names

PAIR = "models: [{model: o/a}, {model: o/b}]\n"


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("merge_method: model_stock\nparameters: {filter_wise: true}\n", {"per_row": True}),
        ("merge_method: karcher\nparameters: {max_iter: 3}\n", {"max_iter": 3.0}),
        ("merge_method: ramplus_tl\nparameters: {alpha: 1}\n", {"alpha": 1.0}),
        (
            "merge_method: multislerp\nparameters: {weight: 1, normalize_weights: false}\n",
            {"weight": 1.0, "normalize": False, "space": "task_vector"},
        ),
        (
            "merge_method: della\nparameters: {weight: 1, lambda: 2, epsilon: 0.1}\n",
            {"weight": 1.0, "lam": 2.0, "epsilon": 0.1},
        ),
        (
            "merge_method: task_arithmetic\nparameters: {weight: 1, density: 0.1, rescale: true}\n",
            {"weight": 1.0},  # mergekit does not use the others
        ),
    ],
)
def test_parameters_get_our_names(text: str, parameters: dict[str, Any]) -> None:
    assert read(f"{text}{PAIR}base_model: o/base\n").parameters == parameters


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"merge_method: nuslerp\n{PAIR}"
            "parameters: {weight: 1, nuslerp_flatten: [{filter: mlp, value: false}]}\n",
            "parameters.nuslerp_flatten: evomerge has one value for all tensors",
        ),
        (
            f"merge_method: multislerp\n{PAIR}parameters: {{weight: 1, eps: 1e-6}}\n",
            "parameters.eps: evomerge knows 1e-8 alone",
        ),
        (
            f"merge_method: nearswap\nbase_model: o/a\n{PAIR}",
            "t: no value, and mergekit requires one",
        ),
    ],
)
def test_what_operators_cannot_do_is_refused(text: str, message: str) -> None:
    assert message in complaint(text)


@pytest.mark.parametrize(("method", "name"), [("della", "epsilon"), ("breadcrumbs_ties", "gamma")])
def test_every_model_has_its_own_spread_and_outliers(method: str, name: str) -> None:
    text = f"merge_method: {method}\nbase_model: o/base\nparameters: {{weight: 1}}\n"
    text += f"models: [{{model: o/a, parameters: {{{name}: [0, 0.25, 0.125]}}}}, {{model: o/b}}]\n"
    one = read(text)
    assert one.parameters[name] == {"a": [0.0, 0.1, 0.2, 0.225, 0.175, 0.125]}  # b: the default
    assert read(write(read(f"{text}dialect: mergekit\n"))) == read(f"{text}dialect: mergekit\n")


@pytest.mark.parametrize("weight", [[{"filter": "q_proj", "value": 1}, {"value": [0, 1]}], 0.5])
def test_filters_that_are_no_role_stay_as_they_are(weight: Any) -> None:
    one = recipe("task_arithmetic", parameters={"weight": {"a": weight, "b": 1}})
    rows = one.model_copy(update={"slices": ({"base": (0, 2), "a": (0, 2), "b": (1, 3)},)})
    assert read(write(rows)) == rows


def test_densities_by_filter_go_into_the_weights() -> None:
    density = [{"filter": "q_proj", "value": 0.5}, {"value": 0.25}]
    one = recipe("dare_linear", parameters={"density": density, "weight": 1})
    entry = exported(one)["models"][0]["parameters"]
    assert entry["density"] == density
    assert entry["weight"] == [{"filter": "self_attn", "value": 2.0}, {"value": 4.0}]


# Modules

VISION = """
merge_method: task_arithmetic
base_model: o/vl-base
modules:
  text_decoder: {models: [{model: o/vl-a, parameters: {weight: 0.5}}]}
  vision_tower: {models: [{model: o/vl-base}]}
  multi_modal_projector: {models: [{model: o/vl-base}]}
"""


def test_modules_become_prefixes() -> None:
    one = read(VISION)
    assert one.modules == ("language_model",)
    assert read(write(one)) == one


def test_modules_that_are_merged_alike_are_one_merge() -> None:
    every = VISION.replace("o/vl-base}]", "o/vl-a, parameters: {weight: 0.5}}]")
    assert read(every).modules == ()


def test_modules_that_are_merged_in_different_ways_are_merged_one_after_the_other() -> None:
    tower = "vision_tower: {models: [{model: "
    text = VISION.replace(f"{tower}o/vl-base", f"{tower}o/vl-b, parameters: {{weight: 2}}")
    one = read(text)
    assert (one.modules, one.sources, one.parameters) == (
        ("vision_tower",),
        {"vl-b": "o/vl-b"},
        {"weight": 2.0},
    )
    assert isinstance(one.base, Recipe)
    # float32, so that what is copied from it is rounded once
    assert (one.base.base, one.base.modules, one.base.dtype) == (
        "o/vl-base",
        ("language_model",),
        "float32",
    )


def test_stacks_of_blocks_are_modules_too() -> None:
    text = "merge_method: task_arithmetic\nbase_model: o/vl-base\nmodules:\n"
    text += "  vision_tower.blocks: {models: [{model: o/vl-a, parameters: {weight: 1}}]}\n"
    assert read(text).modules == ("vision_tower.blocks",)


def test_the_default_module_is_the_whole_model() -> None:
    text = "merge_method: linear\nmodules: {default: {models: [{model: o/a}]}}\n"
    assert read(f"{text}parameters: {{weight: 1}}").modules == ()


def test_an_unknown_module_is_refused() -> None:
    assert "modules.text_decodr: no such module. Did you mean 'text_decoder'?" in complaint(
        VISION.replace("text_decoder", "text_decodr")
    )


def test_modules_of_two_models_at_least_are_not_written() -> None:
    # mergekit's slerp does not copy a single model
    one = recipe("slerp", base="o/vl-a", sources={"b": "o/vl-b"}, modules=("language_model",))
    assert "modules: mergekit's slerp cannot leave the other modules" in refusal(one)


# Tokenizer and chat template


def test_tokens_have_sources() -> None:
    text = f"""
merge_method: linear
{PAIR}base_model: o/a
parameters: {{weight: 1}}
tokenizer:
  source: o/b
  pad_to_multiple_of: 8
  tokens:
    <x>: {{source: o/b}}
    <y>: {{source: {{kind: model_token, model: o/a, token_id: 3}}, force: true}}
    <z>: {{source: {{kind: zero}}}}
"""
    one = read(text)
    assert isinstance(one.tokenizer, Tokenizer)
    assert one.tokenizer.model_dump(exclude_defaults=True) == {
        "source": "b",
        "pad_to_multiple_of": 8,
        "tokens": {
            "<x>": {"source": "b"},
            "<y>": {"source": "base", "token_id": 3, "force": True},
            "<z>": {"zero": True},
        },
    }
    assert read(write(one)) == one


@pytest.mark.parametrize(
    ("line", "tokenizer"),
    [
        ("tokenizer_source: union", "union"),
        ("tokenizer_source: o/b", "b"),
        ("tokenizer_source: ./o/b/", "b"),
        ("tokenizer: {}", "union"),
    ],
)
def test_a_tokenizer_without_more_is_a_word(line: str, tokenizer: str) -> None:
    text = f"merge_method: linear\n{PAIR}base_model: o/a\nparameters: {{weight: 1}}\n{line}\n"
    assert read(text).tokenizer == tokenizer
    assert read(write(read(text))) == read(text)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{source: {kind: zeros}}", "source.kind: expected zero or model_token, got 'zeros'"),
        ("{source: {kind: model_token, model: o/a}}", "expected either token or token_id"),
        ("{source: o/c}", "source: expected base, union or one of the models, got o/c"),
        ("{force: true}", "source: expected a model, or a kind of row"),
    ],
)
def test_rows_from_nowhere_are_refused(row: str, message: str) -> None:
    text = f"merge_method: linear\n{PAIR}parameters: {{weight: 1}}\n"
    assert message in complaint(f"{text}tokenizer: {{tokens: {{<x>: {row}}}}}")


def test_a_chat_template_goes_both_ways() -> None:
    one = recipe("linear", chat_template="chatml")
    assert exported(one)["chat_template"] == "chatml"
    short = recipe("linear", chat_template="{{ x }}")
    assert "chat_template: mergekit takes a text this short for a wrong name" in refusal(short)


# Many documents


def test_a_document_may_be_a_model_of_another() -> None:
    text = f"name: first\nmerge_method: linear\n{PAIR}parameters: {{weight: 1}}\n---\n"
    text += "merge_method: slerp\nbase_model: o/c\nparameters: {t: 0.5}\n"
    text += "models: [{model: o/c}, {model: first}]\n"
    one = read(text)
    inner = one.sources["first"]
    assert isinstance(inner, Recipe)
    assert (inner.operator, inner.sources) == ("linear", {"a": "o/a", "b": "o/b"})
    assert refusal(one).startswith("sources.first: mergekit knows no recipe in place of a model.")


def test_documents_that_need_each_other_are_refused() -> None:
    document = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: %s}]\nname: %s\n"
    text = "---\n".join(document % pair for pair in (("y", "x"), ("x", "y")))
    assert "the merge is made of itself: y -> x -> y" in complaint(text)


def test_two_documents_of_one_name_are_refused() -> None:
    document = f"merge_method: linear\n{PAIR}parameters: {{weight: 1}}\n"
    assert "2 documents have no name" in complaint(f"{document}---\n{document}")
    named = f"name: x\n{document}"
    assert "2 documents are called 'x'" in complaint(f"{named}---\n{named}")


# Writing


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (recipe("regmean", statistics={"a": "/s"}), "operator: mergekit export knows no 'regmean'"),
        (recipe("linear", statistics={"a": "/s"}), "statistics: mergekit has no operator that"),
        (recipe("linear", allow_missing=["*.bias"]), "allow_missing: mergekit merges no models"),
        (recipe("ties", parameters={"lines_alpha": 0.5}), "lines_alpha: unknown to mergekit's"),
        (recipe("ties", parameters={"scope": "global"}), "ties has no 'global'. Set it to tensor."),
        (
            recipe("ties", parameters={"weight": {"a": -1, "b": 1}, "normalize": False}),
            "negative for a, which in mergekit has a vote on the sign. Set negative: elect.",
        ),
        (
            recipe("della", parameters={"density": 0.5, "normalize": False}),
            "cannot divide each element by its own probability",
        ),
        (recipe("sce", parameters={"coefficient_floor": 1e-3}), "knows 1e-6 alone, got 0.001"),
        (recipe("karcher", parameters={"weight": {"a": 1, "b": 2}}), "weighs all models alike"),
        (
            recipe("nuslerp", parameters={"space": "weights"}),
            "without base_model mergekit has no other model to take the config from",
        ),
        (
            recipe("ties", parameters={"sparsify_density": 0.5, "sparsify_method": "random"}),
            "sparsify_density: unknown to mergekit's ties",
        ),
        (recipe("slerp", modules=("lm_head",)), "modules: lm_head are no modules to mergekit"),
    ],
)
def test_what_mergekit_lacks_is_refused(one: Recipe, message: str) -> None:
    assert message in refusal(one)


def test_a_base_that_takes_no_part_stands_beside_slices() -> None:
    # mergekit would add it to the models
    one = recipe("karcher")
    content = exported(one)
    assert content["base_model"] == "o/base"
    assert "models" not in content
    assert read(write(one)) == one
