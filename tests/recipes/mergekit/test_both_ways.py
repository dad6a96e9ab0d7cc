"""Recipes go to mergekit YAML and come back; what it cannot say is refused.

What mergekit 0.1.5 does with such YAML was seen by running it: see the comments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from evomerge import operators
from evomerge.errors import ExportError, RecipeError
from evomerge.plugins import registry
from evomerge.recipes import ROLES, Recipe
from evomerge.recipes.mergekit import from_mergekit, is_mergekit, to_mergekit
from evomerge.recipes.mergekit.methods import METHODS
from evomerge.recipes.mergekit.read_settings import interpolate, pick
from evomerge.recipes.places import Place
from evomerge.yaml_files import parse_yaml

LAYERS = 3


BLOCK = {
    "input_layernorm": "norm",
    "self_attn.q_proj": "attention",
    "self_attn.o_proj": "attention",
    "post_attention_layernorm": "norm",
    "mlp.up_proj": "mlp",
    "mlp.down_proj": "mlp",
}


def llama(block: Mapping[str, str] = BLOCK, *, tied: bool = False) -> dict[str, Place]:
    """The places of a Llama of three blocks."""
    places = {"model.embed_tokens.weight": Place(None, "embedding")}
    for layer in range(LAYERS):
        for name, role in block.items():
            places[f"model.layers.{layer}.{name}.weight"] = Place(layer, role)
    places["model.norm.weight"] = Place(None, "norm")
    return places if tied else {**places, "lm_head.weight": Place(None, "head")}


def recipe(
    operator: str, sources: str | dict[str, str] = "abc", base: str = "base", **keys: Any
) -> Recipe:
    """A recipe of models ``/m/a``, ``/m/b``, ..., or of those given."""
    if isinstance(sources, str):
        sources = {name: f"/m/{name}" for name in sources}
    content = {
        "base": f"/m/{base}",
        "sources": sources,
        "operator": operator,
        "dtype": "bfloat16",
    }
    return Recipe.model_validate(content | keys)


def write(one: Recipe, places: Mapping[str, Place] | None = None) -> str:
    """The YAML text of a recipe."""
    places = llama() if places is None else places
    return to_mergekit(one, places, dict.fromkeys(places, (4, 4)))


def exported(one: Recipe, places: Mapping[str, Place] | None = None) -> dict[str, Any]:
    """The YAML of a recipe, parsed."""
    return parse_yaml(write(one, places), "m.yaml")


def imported(text: str, layers: int = LAYERS) -> Recipe:
    """The recipe of a mergekit YAML text."""
    return from_mergekit(parse_yaml(text, "m.yaml"), "m.yaml", lambda model: layers)


def again(one: Recipe, places: Mapping[str, Place] | None = None) -> Recipe:
    """A recipe after a round trip."""
    return imported(write(one, places))


def refusal(one: Recipe, places: Mapping[str, Place] | None = None) -> str:
    """Why a recipe is not exported."""
    with pytest.raises(ExportError) as caught:
        write(one, places)
    return str(caught.value)


def complaint(text: str, layers: int = LAYERS) -> str:
    """Why a YAML is not imported."""
    with pytest.raises(RecipeError) as caught:
        imported(text, layers)
    return str(caught.value)


WEIGHT = {
    "a": {"attention": [0.3, 0.5, 0.7], "mlp": [0.1, 0.9, 0.4], "other": 0.45},
    "b": {"norm": [0.2, 0.3, 0.6], "head": 0.9, "embedding": 0.15, "other": 0.1 + 0.2},
    "c": [0.9, 0.33, 1e-5],
}
DENSITY = {"a": {"mlp": [0.2, 0.5, 0.9], "other": 0.37}, "b": 0.61, "c": [0.11, 0.52, 0.83]}

ROUND_TRIPS = {
    "linear": recipe("linear", parameters={"weight": WEIGHT}),
    "linear with its base among the sources": recipe(
        "linear", base="b", parameters={"weight": WEIGHT}
    ),
    "task arithmetic": recipe(
        "task_arithmetic",
        parameters={"weight": WEIGHT, "lam": [0.5, 0.25, 1e-9], "normalize": True},
        dtype="float32",
    ),
    "ties": recipe(
        "ties", parameters={"weight": WEIGHT, "density": DENSITY, "lam": 1.3}, tokenizer="base"
    ),
    "ties without normalize": recipe(
        "ties",
        parameters={
            "weight": {"a": -1, "b": 1, "c": 0},
            "density": 0.2,
            "normalize": False,
            "negative": "elect",
        },
    ),
    "dare_linear": recipe(
        "dare_linear", parameters={"weight": 0.5, "density": DENSITY, "rescale": "l1"}
    ),
    "dare_ties": recipe(
        "dare_ties", parameters={"weight": WEIGHT, "density": 0.5, "rescale": "none"}
    ),
    "dare_ties by role": recipe(
        "dare_ties",
        parameters={"weight": 1, "density": 0.5, "rescale": {"mlp": "l1", "other": "none"}},
    ),
    "slerp with the base": recipe("slerp", "a", parameters={"t": {"mlp": [0, 0.5, 1], "other": 0}}),
    "slerp of two": recipe("slerp", "ab", base="a", parameters={"t": [0.1, 0.4, 0.9]}),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_a_recipe_comes_back_from_mergekit_yaml(name: str) -> None:
    assert again(ROUND_TRIPS[name]) == ROUND_TRIPS[name]


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_a_recipe_comes_back_without_a_tensor_for_the_head(name: str) -> None:
    assert again(ROUND_TRIPS[name], llama(tied=True)) == ROUND_TRIPS[name]


@pytest.mark.parametrize("method", METHODS)
def test_the_table_of_methods_knows_the_defaults_of_the_operators(method: str) -> None:
    one = METHODS[method]
    if one.operator not in registry.names("operators"):
        pytest.skip(f"{one.operator} is not there yet")
    operator = operators.get(one.operator)
    own = {name: bound.default for name, bound in operator.per_source.items()}
    assert one.per_source == {name: own[name] for name in one.per_source}
    known = {**one.shared, **one.fixed}
    assert known == {name: operator.shared[name] for name in known}
    assert set(one.dialect) <= set(operator.shared)


# Writing


def test_an_export_reads_like_a_person_wrote_it() -> None:
    one = recipe(
        "ties",
        "ab",
        parameters={"weight": {"a": {"mlp": [0.1, 0.2, 0.3], "other": 1}, "b": 0.5}, "lam": 2},
    )
    assert write(one) == (
        f"# evomerge recipe {one.digest}\n"
        "# For mergekit 0.1.5 or newer. As in evomerge, arithmetic is float32 (dtype)\n"
        "# and the result is rounded once, to out_dtype.\n"
        "merge_method: ties\n"
        "base_model: /m/base\n"
        "models:\n"
        "- model: /m/a\n"
        "  parameters:\n"
        "    weight:\n"
        "    - filter: mlp\n"
        "      value: [0.1, 0.2, 0.3]\n"
        "    - value: 1.0\n"
        "- model: /m/b\n"
        "  parameters:\n"
        "    weight: 0.5\n"
        "parameters:\n"
        "  lambda: 2.0\n"
        "dtype: float32\n"
        "out_dtype: bfloat16\n"
    )


def test_weights_are_written_even_when_they_are_the_default() -> None:
    # mergekit demands them
    content = exported(recipe("ties", "a"))
    assert content["models"] == [{"model": "/m/a", "parameters": {"weight": 1.0}}]


def test_a_list_is_a_gradient() -> None:
    # outside the blocks mergekit takes its start, as we do
    content = exported(recipe("linear", "a", base="a", parameters={"weight": [0.1, 0.2, 0.3]}))
    assert content["models"][0]["parameters"]["weight"] == [0.1, 0.2, 0.3]


def test_a_filter_for_norms_leaves_norms_inside_attention_alone() -> None:
    places = llama({**BLOCK, "self_attn.q_norm": "attention"})
    one = recipe("slerp", "a", parameters={"t": {"norm": 0.9, "other": 0.1}})
    assert exported(one, places)["parameters"]["t"] == [
        {"filter": "layernorm", "value": 0.9},
        {"filter": "model.norm", "value": 0.9},
        {"value": 0.1},
    ]
    assert again(one, places) == one


def test_roles_of_other_families_get_filters_from_their_names() -> None:
    places = {
        "transformer.wte.weight": Place(None, "embedding"),
        "transformer.h.0.ln_1.weight": Place(0, "norm"),
        "transformer.h.0.attn.c_attn.weight": Place(0, "attention"),
        "transformer.h.0.ffn.fc_in.weight": Place(0, "mlp"),
        "transformer.ln_f.weight": Place(None, "norm"),
    }
    one = recipe(
        "slerp", "a", parameters={"t": {"attention": 0.1, "mlp": 0.2, "norm": 0.3, "other": 0.4}}
    )
    assert exported(one, places)["parameters"]["t"] == [
        {"filter": "ln_1", "value": 0.3},
        {"filter": "ln_f", "value": 0.3},
        {"filter": "attn", "value": 0.1},
        {"filter": "ffn", "value": 0.2},
        {"value": 0.4},
    ]


def test_a_role_that_no_filter_selects_is_refused() -> None:
    places = {"a.0.up.weight": Place(0, "mlp"), "a.0.up.weight_norm": Place(0, "norm")}
    one = recipe("slerp", "a", parameters={"t": {"mlp": 0.1, "other": 0.4}})
    assert refusal(one, places) == (
        "parameters.t: no part of a name selects the mlp tensors alone (a.#.up.weight), as "
        "mergekit needs. Give mlp the value of 'other'."
    )


def test_linear_carries_its_base_with_weight_zero() -> None:
    # without base_model mergekit takes the config of any one of the models
    content = exported(recipe("linear", "ab", parameters={"weight": 0.5}))
    assert content["base_model"] == "/m/base"
    assert content["models"][-1] == {"model": "/m/base", "parameters": {"weight": 0.0}}


def test_slerp_of_two_takes_the_first_as_base_model() -> None:
    content = exported(recipe("slerp", "ab", parameters={"t": 0.25}))
    assert content["base_model"] == "/m/a"
    assert content["models"] == [{"model": "/m/a"}, {"model": "/m/b"}]
    assert "/m/base: copy them from there" in write(recipe("slerp", "ab"))


def test_a_base_among_task_vectors_is_left_out() -> None:
    content = exported(recipe("ties", "ab", base="b", parameters={"weight": 0.5}))
    assert [item["model"] for item in content["models"]] == ["/m/a"]


def test_a_base_that_divides_a_sum_of_weights_is_refused() -> None:
    one = recipe("task_arithmetic", "ab", base="b", parameters={"normalize": True})
    assert "mergekit does not divide by its weight" in refusal(one)


def test_rescale_inverse_goes_into_the_weights() -> None:
    one = recipe(
        "dare_linear",
        "a",
        parameters={"weight": 0.3, "density": {"mlp": [0.5, 0.25, 0.1], "other": 0.6}},
    )
    content = exported(one)
    assert content["parameters"] == {"rescale": False}
    assert content["models"][0]["parameters"]["weight"] == [
        {"filter": "mlp", "value": [0.3 / 0.5, 0.3 / 0.25, 0.3 / 0.1]},
        {"value": 0.3 / 0.6},
    ]
    assert "# Each weight has been divided by its density" in write(one)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_rescale_inverse_with_normalize_is_refused(method: str) -> None:
    one = recipe(method, parameters={"normalize": True})
    assert "cannot combine inverse with normalize" in refusal(one)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_random_masks_are_announced(method: str) -> None:
    assert "# mergekit draws its own random masks" in write(recipe(method))


def test_a_negative_weight_with_normalize_is_refused() -> None:
    # mergekit: a single source at -1 comes back as plus its task vector
    weight = {"a": {"mlp": [0, 0, -0.1], "other": 1}, "b": 1, "c": -1}
    assert refusal(recipe("ties", parameters={"weight": weight})) == (
        "parameters.weight: negative for a, c, and with normalize mergekit loses the sign. Set "
        "normalize: false, or raise it to 0."
    )


def test_a_negative_weight_without_election_is_fine() -> None:
    one = recipe("linear", "ab", parameters={"weight": {"a": 2, "b": -1}})
    assert again(one) == one


@pytest.mark.parametrize(
    ("operator", "parameters"),
    [
        ("task_arithmetic", {"normalize": True}),
        ("dare_linear", {"normalize": True, "rescale": "l1"}),
        ("breadcrumbs", {"normalize": True}),
        ("multislerp", {"space": "task_vector"}),
        ("nuslerp", {"space": "task_vector"}),
    ],
)
def test_what_mergekit_would_add_instead_of_subtract_is_refused(
    operator: str, parameters: dict[str, Any]
) -> None:
    one = recipe(operator, "ac", parameters={"weight": {"a": -1, "c": -0.5}, **parameters})
    assert "mergekit would add what is to be subtracted" in refusal(one)


def test_linear_weights_that_cancel_are_refused() -> None:
    # mergekit divides by zero
    one = recipe("linear", "ab", parameters={"weight": {"a": 1, "b": -1}})
    assert "the weights add up to 0" in refusal(one)


def test_a_density_that_keeps_nothing_is_announced() -> None:
    # mergekit 0.1.5 keeps one element as we do, 0.1.4 stops with an AssertionError
    one = recipe("ties", "a", parameters={"density": {"norm": 0.01, "other": 0.5}})
    assert "# mergekit before 0.1.5 stops at model.layers.0.input_layernorm.weight" in write(one)


def test_elements_of_equal_magnitude_are_announced() -> None:
    # its argsort is not stable: with a stable one all tensors come out bit for bit as ours
    line = "# Of elements equal in magnitude at the edge of a density, mergekit keeps any,"
    assert line in write(recipe("ties", parameters={"density": 0.5}))
    assert line not in write(recipe("ties"))


def test_everything_that_mergekit_lacks_is_refused_at_once() -> None:
    one = recipe(
        "ties",
        sources={"a": "/m/a", "b": "/m/a", "c": "/m/x+y", "d": "/m/x@y"},
        parameters={"consensus": "count", "variant": "paper", "lamda": 2},
    )
    assert refusal(one).splitlines() == [
        "/m/x+y: mergekit reads + and @ in a model's path as adapter and revision. Rename the "
        "folder.",
        "/m/x@y: mergekit reads + and @ in a model's path as adapter and revision. Rename the "
        "folder.",
        "sources: /m/a is given 2 times, mergekit takes a model once. Drop one and add its weight "
        "to the other.",
        "parameters.lamda: unknown to mergekit's ties. Did you mean 'lam'?",
        "parameters.consensus: mergekit's ties has no 'count'. Set it to sum.",
        "parameters.variant: mergekit's ties has no 'paper'. Set it to weighted.",
    ]


def test_a_revision_on_the_hub_is_no_folder() -> None:
    one = recipe("ties", sources={"a": "org/a@v1.0"})
    assert exported(one)["models"][0]["model"] == "org/a@v1.0"


def test_the_only_consensus_of_mergekit_may_be_spelled_out() -> None:
    assert "parameters" not in exported(recipe("ties", parameters={"consensus": "sum"}))


def test_an_operator_that_mergekit_lacks_is_refused() -> None:
    assert refusal(recipe("tiess")) == (
        "operator: mergekit export knows no 'tiess'. Did you mean 'ties'?"
    )


def test_a_list_that_does_not_fit_the_model_is_refused() -> None:
    one = recipe("slerp", "a", parameters={"t": [0.1, 0.2]})
    assert refusal(one) == "parameters.t: 2 values, but the model has 3 blocks"


def test_slerp_refuses_tokens_that_mergekit_would_fill_otherwise() -> None:
    one = recipe("slerp", "ab", parameters={"t": 0.5}, tokenizer="base")
    assert "Make the base the first source" in refusal(one)


def test_flags_that_mergekit_reads_one_block_early_are_refused() -> None:
    # 1 / 49 * 49 < 1: mergekit reads the flag of block 1 from block 0
    layers = 50
    assert pick([False, *[True] * (layers - 1)], 1, layers) is False
    places = {f"model.layers.{i}.mlp.weight": Place(i, "mlp") for i in range(layers)}
    flags = [False, *[True] * (layers - 1)]
    one = recipe("task_arithmetic", parameters={"normalize": flags})
    assert "shift this list" in refusal(one, places)


@pytest.mark.parametrize("asked", [False, True], ids=["fresh", "whose digest was asked for"])
@pytest.mark.parametrize(
    ("parameters", "method"), [({}, "linear"), ({"space": "task_vector"}, "task_arithmetic")]
)
def test_segments_between_tensors_are_weights_by_tensor(
    parameters: dict[str, Any], method: str, asked: bool
) -> None:
    size = 16 * len(llama())
    one = recipe(
        "segments",
        "ab",
        parameters=parameters,
        segments={"bounds": [0, 16, size], "rows": [[1, 0], [0.25, 0.75]]},
    )
    if asked:
        assert len(one.digest) == 64
    found = exported(one)
    embedding = "model.embed_tokens.weight"
    assert found["merge_method"] == method
    weights = {model["model"]: model["parameters"]["weight"] for model in found["models"]}
    assert [weights["/m/a"], weights["/m/b"]] == [
        [{"filter": embedding, "value": 1.0}, {"value": 0.25}],
        [{"filter": embedding, "value": 0.0}, {"value": 0.75}],
    ]


def test_a_segment_that_begins_inside_a_tensor_is_refused() -> None:
    rows = [[1, 0], [0.25, 0.75]]
    bounds = [0, 8, 16 * len(llama())]
    one = recipe("segments", "ab", segments={"bounds": bounds, "rows": rows})
    assert "1 tensors are cut in pieces, model.embed_tokens.weight first" in refusal(one)


# Reading


def test_the_gradient_example_of_mergekit_is_read() -> None:
    # examples/gradient-slerp.yml, with its filters
    text = """
slices:
  - sources:
      - model: psmathur/orca_mini_v3_13b
        layer_range: [0, 5]
      - model: garage-bAInd/Platypus2-13B
        layer_range: [0, 5]
merge_method: slerp
base_model: psmathur/orca_mini_v3_13b
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: float16
"""
    assert imported(text, layers=5) == Recipe(
        base="psmathur/orca_mini_v3_13b",
        sources={
            "orca_mini_v3_13b": "psmathur/orca_mini_v3_13b",
            "Platypus2-13B": "garage-bAInd/Platypus2-13B",
        },
        operator="slerp",
        parameters={
            "t": {"attention": [0, 0.5, 0.3, 0.7, 1], "mlp": [1, 0.5, 0.7, 0.3, 0], "other": 0.5}
        },
        dtype="float16",
    )


def test_the_ties_example_of_mergekit_is_read() -> None:
    text = """
models:
  - model: psmathur/orca_mini_v3_13b
    parameters:
      density: [1, 0.7, 0.1]
      weight: 1.0
  - model: garage-bAInd/Platypus2-13B
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1]
  - model: WizardLM/WizardMath-13B-V1.0
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: TheBloke/Llama-2-13B-fp16
parameters:
  normalize: true
  int8_mask: true
dtype: float16
"""
    read = imported(text, layers=4)
    assert read.base == "TheBloke/Llama-2-13B-fp16"
    assert read.parameters["normalize"] is True
    assert read.parameters["weight"]["orca_mini_v3_13b"] == 1.0
    assert read.parameters["weight"]["WizardMath-13B-V1.0"] == {"mlp": 0.5, "other": 0.0}
    assert read.parameters["weight"]["Platypus2-13B"] == [0, 0.3, 0.7, 1]
    assert read.parameters["density"]["orca_mini_v3_13b"] == pytest.approx([1, 0.8, 0.5, 0.1])


def test_the_linear_example_of_mergekit_is_read() -> None:
    text = """
models:
  - {model: psmathur/orca_mini_v3_13b, parameters: {weight: 1.0}}
  - {model: WizardLM/WizardLM-13B-V1.2, parameters: {weight: 0.3}}
merge_method: linear
dtype: float16
"""
    read = imported(text)
    assert read.base == "psmathur/orca_mini_v3_13b"
    assert read.parameters == {"weight": {"orca_mini_v3_13b": 1.0, "WizardLM-13B-V1.2": 0.3}}


def test_one_value_per_block_is_read_as_it_stands() -> None:
    values = [0.1, 0.2, 0.7, 0.3, 0.9, 0.4, 0.6, 0.8]
    assert [interpolate(values, layer, 8) for layer in range(8)] == values


def test_a_gradient_of_two_values_is_a_straight_line() -> None:
    assert [interpolate([0.0, 1.0], layer, 5) for layer in range(5)] == [0, 0.25, 0.5, 0.75, 1]


def test_a_longer_gradient_is_sampled() -> None:
    assert [interpolate([0.0, 1.0, 4.0, 9.0, 16.0], layer, 3) for layer in range(3)] == [0, 4, 16]


def test_a_model_of_one_block_takes_the_end_of_a_gradient() -> None:
    assert interpolate([0.0, 1.0, 2.0], 0, 1) == 2.0


MODELS = "models: [{model: o/a, parameters: {weight: 0.5}}]\n"
TIES = f"{MODELS}merge_method: ties\nbase_model: o/base\n"


def test_a_model_without_own_settings_takes_those_of_all() -> None:
    text = """
models:
  - {model: o/a, parameters: {weight: [{filter: mlp, value: 0.1}]}}
  - {model: o/b}
merge_method: task_arithmetic
base_model: o/base
parameters: {weight: 0.7}
"""
    assert imported(text).parameters == {"weight": {"a": {"mlp": 0.1, "other": 0.7}, "b": 0.7}}


def test_the_base_among_the_models_is_no_source() -> None:
    text = "models: [{model: o/base}, {model: o/a, parameters: {weight: 1}}]\n"
    read = imported(f"{text}merge_method: ties\nbase_model: o/base\n")
    assert read.sources == {"a": "o/a"}


def test_a_base_that_linear_does_not_list_takes_part() -> None:
    text = "models: [{model: o/a, parameters: {weight: 2}}]\nbase_model: o/base\n"
    read = imported(f"{text}merge_method: linear\nparameters: {{weight: 1}}\n")
    assert read.parameters == {"weight": {"a": 2.0, "base": 1.0}}
    assert "weight for o/base: no value" in complaint(f"{text}merge_method: linear\n")


def test_slerp_puts_the_base_first() -> None:
    text = "models: [{model: o/b}, {model: o/a}]\nbase_model: o/a\nmerge_method: slerp\n"
    read = imported(f"{text}parameters: {{t: 0.2}}\n")
    assert list(read.sources.values()) == ["o/a", "o/b"]


@pytest.mark.parametrize(
    ("lines", "rescale"),
    [
        ("", None),  # evomerge's default: inverse
        ("parameters: {rescale: true}\n", "inverse"),
        ("parameters: {rescale: false}\n", "none"),
        ("dialect: mergekit\n", "l1"),
        ("dialect: mergekit\nparameters: {rescale: 1}\n", "l1"),
        ("dialect: mergekit\nparameters: {rescale: false}\n", "none"),
    ],
)
def test_rescale_is_the_papers_and_in_the_dialect_mergekits(
    lines: str, rescale: str | None
) -> None:
    text = TIES.replace("ties", "dare_ties")
    assert imported(text + lines).parameters.get("rescale") == rescale


@pytest.mark.parametrize(
    ("lines", "dtype"),
    [
        ("", "bfloat16"),
        ("dtype: float16\n", "float16"),
        ("dtype: float32\nout_dtype: torch.bfloat16\n", "bfloat16"),
    ],
)
def test_the_written_dtype_is_read(lines: str, dtype: str) -> None:
    assert imported(TIES + lines).dtype == dtype


@pytest.mark.parametrize(
    ("lines", "tokenizer"),
    [
        ("", None),
        ("tokenizer_source: base\n", "base"),
        ("tokenizer_source: o/base\n", "base"),
        ("tokenizer: {source: base}\n", "base"),
    ],
)
def test_the_tokenizer_is_read(lines: str, tokenizer: str | None) -> None:
    assert imported(TIES + lines).tokenizer == tokenizer


def test_models_of_one_name_are_told_apart() -> None:
    text = """
models:
  - {model: x/m, parameters: {weight: 1}}
  - {model: y/m@main, parameters: {weight: 1}}
  - {model: {model: {path: /z/mlp, revision: null}}, parameters: {weight: 1}}
merge_method: ties
base_model: o/base
"""
    sources = imported(text).sources
    assert sources == {"m": "x/m", "m-2": "y/m@main", "mlp-model": "/z/mlp"}
    assert not set(sources) & set(ROLES)


def test_numbers_that_yaml_reads_as_words_are_numbers() -> None:
    assert imported(TIES.replace("0.5", "1e-1")).parameters["weight"] == 0.1


def test_a_norm_after_the_blocks_of_another_value_stays_a_filter() -> None:
    text = TIES.replace("0.5", "[{filter: layernorm, value: 0.1}, {value: 0.2}]")
    assert imported(text).parameters["weight"] == [
        {"filter": "layernorm", "value": 0.1},
        {"value": 0.2},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("merge_method: tie", "merge_method: 'tie' cannot be read. Did you mean 'ties'?"),
        (f"{TIES}modules: [x]", "modules: expected names of modules and what they are merged"),
        (f"{TIES}modules: {{x: {{models: []}}}}", "modules: give either modules, models or slices"),
        (f"{TIES}chat_template: chatlm", "a known name. Did you mean 'chatml'?"),
        (f"{TIES}tokenizer_source: o/c", "tokenizer_source: expected base, union or one of the"),
        (f"{TIES}dialect: lazy", "dialect: expected mergekit, got 'lazy'"),
        (
            f"{TIES}dtype: float64",
            "dtype: expected float32, bfloat16, float16, got 'float64'. Set out_",
        ),
        (f"{TIES}parameters: [1]", "parameters: expected keys and values, got [1]"),
        (
            TIES.replace("weight: 0.5", "density: 1"),
            "weight for o/a: no value, and mergekit requires one",
        ),
        (
            TIES.replace("0.5", "{filter: q_proj, value: 1}"),
            "weight for o/a: no value for the tensors that no filter selects",
        ),
        (
            TIES.replace("0.5", "{filter: mlp, value: 1}"),
            "weight for o/a: no value for attention, norm, embedding, head, final_norm",
        ),
        (TIES.replace("o/a", "o/base"), "models: expected one besides the base"),
        (TIES.replace("base_model: o/base", ""), "base_model: ties needs one"),
        ("merge_method: linear", "models: expected a list of models"),
        ("merge_method: linear\nmodels: []", "models: expected a list of models"),
        ("merge_method: linear\nmodels: [o/a]", "models.0: expected keys and values, got 'o/a'"),
        ("merge_method: linear\nmodels: [{model: 3}]", "models.0.model: expected a model, got 3"),
        ("merge_method: linear\nmodels: [{model: a}, {model: a}]", "models: a is given 2 times"),
        ("merge_method: linear\nslices: []", "models: expected a list of models"),
        ("merge_method: linear\nslices: 3", "slices: expected a list of slices"),
        ("merge_method: linear\nmodels: [null]", "models.0: expected a model, got None"),
        (TIES.replace("0.5", "[]"), "weight for o/a: no value, and mergekit requires one"),
        (TIES.replace("0.5", "[null, {value: 1}]"), "weight.0: expected the keys filter and value"),
        (TIES.replace("o/a", "o/a+o/l+o/m"), "expected a model, or model+adapter, got 'o/l+o/m'"),
        ("merge_method: linear\nslices: [{sources: 3}]", "sources: expected a list of models"),
        (
            "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 4]}]}]",
            "slices.0: a has 3 blocks, the range ends at 4",
        ),
        (
            "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [2, 1]}]}]",
            "slices.0.sources.0.layer_range: expected [start, end] with 0 <= start < end, got [2",
        ),
        (
            "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 2]}, "
            "{model: b, layer_range: [0, 1]}]}]",
            "slices.0.sources: the ranges differ in length: 2, 1 blocks",
        ),
        (
            "merge_method: passthrough\nmodels: [{model: a}, {model: b}]",
            "models: passthrough takes one model, got 2",
        ),
        (
            "merge_method: slerp\nbase_model: a\nmodels: [{model: b}, {model: c}]",
            "slerp takes the base and one more, got 2",
        ),
        (
            "merge_method: model_stock\nbase_model: a\nmodels: [{model: b}]",
            "model_stock takes the base and at least two more, got 1",
        ),
        (
            "merge_method: slerp\nbase_model: a\nmodels: [{model: a}]",
            "models: expected one besides the base",
        ),
    ],
)
def test_what_a_recipe_cannot_say_is_refused(text: str, message: str) -> None:
    assert message in complaint(text)


def test_every_mistake_is_reported_at_once() -> None:
    text = TIES.replace("0.5", "x") + "tokenizer_source: o/c\ndialect: 1\nparameters: [1]\n"
    assert len(complaint(text).splitlines()) == 4


def test_layers_are_asked_for_only_where_there_is_a_gradient() -> None:
    def layers_of(model: str) -> int:
        raise AssertionError(model)

    from_mergekit(parse_yaml(TIES, "m.yaml"), "m.yaml", layers_of)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"merge_method": "ties"}, True),
        ({"evomerge": 1, "operator": "ties"}, False),
        ({"evomerge": 1, "merge_method": "ties"}, False),
        ({}, False),
    ],
)
def test_mergekit_yaml_is_told_from_ours(content: dict[str, Any], expected: bool) -> None:
    assert is_mergekit(content) is expected
