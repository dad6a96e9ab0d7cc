from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from evomerge.errors import CheckpointError, PlanError
from evomerge.recipes import Recipe
from evomerge.weights.library import Library
from evomerge.weights.merge import merge
from evomerge.weights.models import Models
from evomerge.weights.plan import make_plan

Tiny = Callable[..., Path]
Changed = Callable[..., Path]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
UP = "model.layers.1.mlp.up_proj.weight"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
WORDS = (*SPECIAL, *(f"w{number}" for number in range(36)))


def opened(
    base: Path, tokenizer: str | None = None, allow: tuple[str, ...] = (), **sources: Path
) -> Models:
    folders = {name: str(path) for name, path in sources.items()}
    return Library().open(str(base), folders, tokenizer, allow_missing=allow)


def merged(models: Models, operator: str = "linear", **parameters: Any) -> dict[str, Tensor]:
    recipe = Recipe(
        base=str(models.base.folder),
        sources={name: str(source.folder) for name, source in models.sources.items()},
        operator=operator,
        parameters=parameters,
        dtype="float32",
    )
    return dict(merge(make_plan(recipe, models)))


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def drop(*names: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in names:
            del tensors[name]

    return change


def put(name: str, value: Tensor) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name] = value

    return change


def test_all_models_that_cannot_be_opened_are_named_at_once(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        opened(tmp_path / "one", a=tmp_path / "two", b=tiny(), c=tmp_path / "two")
    assert len(error.value.problems) == 2


def test_equal_architectures_give_a_slot_for_every_tensor_and_no_notes(tiny: Tiny) -> None:
    models = opened(tiny(), a=tiny(1), b=tiny(2, sharded=True))
    assert {slot.name for slot in models.slots} == set(weights(tiny()))
    assert all(slot.inputs == {"a": slot.name, "b": slot.name} for slot in models.slots)
    assert models.notes == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_is_that_of_most_tensors(tiny: Tiny, changed: Changed, dtype: str) -> None:
    base = changed(tiny(dtype=dtype), put("model.norm.weight", torch.ones(32)))
    assert opened(base, a=tiny(1)).dtype == dtype


# R8: missing tensors


def test_a_source_that_lacks_a_tensor_takes_no_part_in_it(tiny: Tiny, changed: Changed) -> None:
    models = opened(tiny(), a=changed(tiny(1), drop(UP)), b=tiny(2), allow=(UP,))
    assert torch.equal(merged(models)[UP], weights(tiny(2))[UP])
    assert models.notes == [f"a: lacks 1 tensor that base has: {UP}; it takes no part."]


def test_a_slice_of_several_models_notes_what_one_of_them_lacks(
    tiny: Tiny, changed: Changed
) -> None:
    sources = {"a": str(changed(tiny(1), drop(UP))), "b": str(tiny(2))}
    slices = [{"a": (0, 2), "b": (0, 2)}]
    merging = Library().open(str(tiny()), sources, slices=slices, allow_missing=[UP])
    assert merging.notes == [f"a: lacks 1 tensor that base has: {UP}; it takes no part."]
    assert Library().open(str(tiny()), sources, slices=[{"b": (0, 2)}, {"a": (2, 3)}]).notes == []
    with pytest.raises(PlanError, match=f"a: lacks 1 tensor that the blocks of its kind .*{UP}"):
        Library().open(str(tiny()), sources, slices=[{"b": (0, 2)}, {"a": (1, 2)}])
    base, stack = str(changed(tiny(), drop(UP))), [{"b": (0, 2)}, {"base": (1, 2)}]
    with pytest.raises(PlanError, match="base: lacks 1 tensor that the blocks of its kind have"):
        Library().open(base, {"b": str(tiny(2))}, slices=stack)


def test_blocks_that_one_config_cannot_say_are_not_stacked(tiny: Tiny) -> None:
    """A block with a bias beside blocks without one: who loads them would drop it, unasked."""
    sources = {"a": str(tiny(1, attention_bias=True)), "b": str(tiny(2))}
    problem = "a: attention_bias is True, the base has False. Drop this source."
    with pytest.raises(PlanError) as error:
        Library().open(str(tiny()), sources, slices=[{"b": (0, 1)}, {"a": (1, 2)}])
    assert error.value.problems == (problem,)
    with pytest.raises(PlanError) as error:
        Library().side_by_side(str(tiny(num_hidden_layers=4)), sources)
    assert error.value.problems == (problem,)
    assert Library().open(str(tiny()), sources, slices=[{"b": (0, 2)}]).layers == 2


def test_a_tensor_of_the_base_alone_is_copied(tiny: Tiny, changed: Changed) -> None:
    models = opened(tiny(), a=changed(tiny(1), drop(UP)), allow=(UP,))
    assert torch.equal(merged(models, "task_arithmetic")[UP], weights(tiny())[UP])


def test_a_tensor_that_the_base_lacks_is_the_average(tiny: Tiny, changed: Changed) -> None:
    models = opened(changed(tiny(), drop(UP)), a=tiny(1), b=tiny(2), allow=("*.up_proj.*",))
    one, two = weights(tiny(1))[UP], weights(tiny(2))[UP]
    assert torch.equal(merged(models, "ties", density=0.5)[UP], (one + two) / 2)
    assert any("base: lacks 1 tensor that a has" in note for note in models.notes)


def test_of_a_pair_that_lacks_a_tensor_the_other_one_gives_it(tiny: Tiny, changed: Changed) -> None:
    models = opened(tiny(), a=changed(tiny(1), drop(UP)), b=tiny(2), allow=(UP,))
    assert torch.equal(merged(models, "slerp", t=0.3)[UP], weights(tiny(2))[UP])


def test_equal_tensors_that_are_not_floating_point_are_copied(tiny: Tiny, changed: Changed) -> None:
    ids = torch.arange(5)
    one, two = (changed(tiny(seed), put("model.ids", ids)) for seed in (0, 1))
    assert torch.equal(merged(opened(one, a=two, b=tiny(2)))["model.ids"], ids)
    assert torch.equal(merged(opened(tiny(), a=two))["model.ids"], ids)


@pytest.mark.parametrize("other", [torch.arange(1, 6), torch.arange(5, dtype=torch.int32)])
def test_tensors_that_are_not_floating_point_must_agree(
    tiny: Tiny, changed: Changed, other: Tensor
) -> None:
    one = changed(tiny(), put("model.ids", torch.arange(5)))
    two = changed(tiny(1), put("model.ids", other))
    with pytest.raises(PlanError, match=r"model.ids: not floating point, .* in base and a. Drop"):
        merged(opened(one, a=two))


def test_a_tensor_of_another_kind_is_refused(tiny: Tiny, changed: Changed) -> None:
    other = changed(tiny(1), put("model.norm.weight", torch.ones(32, dtype=torch.int8)))
    with pytest.raises(PlanError, match=r"norm.weight is stored as F32 in base, as I8 in a"):
        opened(tiny(), a=other)


# R9: vocabularies


@pytest.mark.parametrize("tokenizer", [None, "base"])
def test_equal_vocabularies_need_no_map(tiny: Tiny, tokenizer: str | None) -> None:
    models = opened(tiny(), tokenizer, a=tiny(1))
    slots = [slot for slot in models.slots if slot.name in (EMBEDDING, HEAD)]
    assert all(isinstance(models.input(slot, "a"), Tensor) for slot in slots)


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        ((*SPECIAL, *reversed(WORDS[4:])), None),
        ((*SPECIAL, "new", *WORDS[10:]), None),
        ((*WORDS, "new"), 44),
        (WORDS, 48),
    ],
)
@pytest.mark.parametrize("operator", ["linear", "task_arithmetic"])
def test_tokenizer_base_matches_rows_by_token_string(
    tiny: Tiny, words: tuple[str, ...], rows: int | None, operator: str
) -> None:
    other = tiny(1, words=words, rows=rows)
    values = merged(opened(tiny(rows=42), "base", a=other), operator)
    base, source = weights(tiny(rows=42)), weights(other)
    for name in (EMBEDDING, HEAD):
        expected = base[name].clone()  # where the source has no such token, and for padding
        for row, word in enumerate(WORDS):
            if word in words:
                theirs = source[name][words.index(word)]
                delta = theirs - expected[row]
                expected[row] = theirs if operator == "linear" else expected[row] + delta
        assert torch.equal(values[name], expected)


def test_a_token_unknown_to_a_source_has_a_zero_task_vector(tiny: Tiny) -> None:
    other = tiny(1, words=(*SPECIAL, *WORDS[10:]), dtype="bfloat16")
    values = merged(opened(tiny(), "base", a=other), "task_arithmetic", weight=3.0)
    base = weights(tiny())
    assert torch.equal(values[EMBEDDING][4:10], base[EMBEDDING][4:10])
    assert not torch.equal(values[EMBEDDING][10:], base[EMBEDDING][10:])


def test_how_many_tokens_are_unknown_is_noted(tiny: Tiny) -> None:
    models = opened(tiny(rows=48), "base", a=tiny(1, words=(*SPECIAL, *WORDS[10:])))
    assert models.notes == [
        "a: 6 of the base's 40 tokens are unknown to it; its rows are matched by token string."
    ]


def test_a_missing_tokenizer_is_noted_or_refused(tiny: Tiny, changed: Changed) -> None:
    bare = changed(tiny(1))
    (bare / "tokenizer.json").unlink()
    assert opened(tiny(), a=bare).notes == [
        "a: it has no tokenizer.json, so that vocabularies cannot be compared; "
        "rows are taken to mean the same tokens."
    ]
    larger = changed(tiny(1, rows=48))
    (larger / "tokenizer.json").unlink()
    with pytest.raises(PlanError, match=r"Save a tokenizer.json with each model"):
        opened(tiny(), "base", a=larger)


# R10: tied heads


def test_models_that_are_all_tied_have_no_head(tiny: Tiny, changed: Changed) -> None:
    def copy_head(tensors: dict[str, Tensor]) -> None:
        tensors[HEAD] = tensors[EMBEDDING].clone()

    models = opened(tiny(tied=True), a=changed(tiny(1, tied=True), copy_head))
    assert not models.untied
    assert HEAD not in {slot.name for slot in models.slots}


@pytest.mark.parametrize("base_tied", [False, True])
def test_a_tied_model_lends_its_embedding_as_head(tiny: Tiny, base_tied: bool) -> None:
    base, source = tiny(tied=base_tied), tiny(1, tied=not base_tied)
    models = opened(base, a=source, b=base)
    values = merged(models, "linear", weight={"a": 0.25, "b": 0.75})
    heads = [weights(folder) for folder in (source, base)]
    one, two = (tensors.get(HEAD, tensors[EMBEDDING]) for tensors in heads)
    assert torch.equal(values[HEAD], (one * 0.25 + two * 0.75) / 1.0)
    assert models.untied
    assert models.notes == ["some models tie embedding and head, some do not: all are untied."]


def test_a_bias_and_a_classifier_of_tied_models_are_kept(tiny: Tiny, changed: Changed) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["lm_head.bias"] = torch.arange(40.0)
        tensors["score.weight"] = torch.ones(2, 32)

    both = [changed(tiny(seed, tied=True), change) for seed in (0, 1)]
    values = merged(opened(both[0], a=both[1]))
    assert torch.equal(values["lm_head.bias"], torch.arange(40.0))
    assert torch.equal(values["score.weight"], torch.ones(2, 32))


# shapes and configs


def test_every_wrong_shape_is_reported_at_once(tiny: Tiny, changed: Changed) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        for layer in (0, 1, 2):
            tensors[f"model.layers.{layer}.mlp.up_proj.weight"] = torch.zeros(65, 32)
        tensors["model.norm.weight"] = torch.zeros(33)

    with pytest.raises(PlanError) as error:
        opened(tiny(), a=changed(tiny(1), change), b=changed(tiny(2), put(UP, torch.zeros(1))))
    assert error.value.problems == (
        "4 tensors differ in shape: model.layers.0.mlp.up_proj.weight is (64, 32) in base, "
        "(65, 32) in a; model.layers.1.mlp.up_proj.weight is (64, 32) in base, (65, 32) in a; "
        "model.layers.2.mlp.up_proj.weight is (64, 32) in base, (65, 32) in a; and 1 more. "
        "Drop one source.",
        f"1 tensor differs in shape: {UP} is (64, 32) in base, (1,) in b. Drop one source.",
    )


def test_sources_must_agree_where_the_base_has_nothing(tiny: Tiny, changed: Changed) -> None:
    one = changed(tiny(1), put("model.extra", torch.zeros(3)))
    two = changed(tiny(2), put("model.extra", torch.zeros(4)))
    with pytest.raises(PlanError, match=r"model.extra is \(3,\) in a, \(4,\) in b"):
        opened(tiny(), a=one, b=two)


def test_another_depth_is_refused(tiny: Tiny) -> None:
    with pytest.raises(PlanError, match=r"a: has 4 blocks, the base has 3, .* or stack blocks"):
        opened(tiny(), a=tiny(1, num_hidden_layers=4))


def test_other_head_counts_are_refused_though_every_shape_agrees(tiny: Tiny) -> None:
    other = tiny(1, num_attention_heads=8, num_key_value_heads=4, head_dim=4)
    with pytest.raises(PlanError) as error:
        opened(tiny(), a=other)
    assert error.value.problems == (
        "a: num_attention_heads is 8, the base has 4. Drop this source.",
        "a: num_key_value_heads is 4, the base has 2. Drop this source.",
        "a: head_dim is 4, the base has 8. Drop this source.",
    )


def test_mismatches_of_every_kind_come_together(tiny: Tiny, changed: Changed) -> None:
    other = changed(
        tiny(1, words=(*SPECIAL, *reversed(WORDS[4:]))), put(UP, torch.zeros(2)), model_type="other"
    )
    with pytest.raises(PlanError) as error:
        opened(tiny(), a=other)
    assert [re.sub(r"[:,].*", "", p) for p in error.value.problems] == [
        *("a", "a", "1 tensor differs in shape")
    ]


def test_quantized_models_are_refused(tiny: Tiny, changed: Changed) -> None:
    quantized = changed(tiny(1), quantization_config={"quant_method": "gptq"})
    eight_bit = changed(tiny(2), put(UP, torch.zeros(64, 32).to(torch.float8_e4m3fn)))
    for source in (quantized, eight_bit):
        with pytest.raises(PlanError, match=r"a: its weights are quantized. Give the full-precis"):
            opened(tiny(), a=source)
    with pytest.raises(PlanError, match="base: its weights are quantized"):
        opened(quantized, a=tiny(1))


@pytest.mark.parametrize(
    ("config", "noted"),
    [
        ({"rms_norm_eps": 1e-3}, "a: rms_norm_eps is 0.001, the base has 1e-06."),
        ({"rope_parameters": {"rope_theta": 5e5}}, "a: rope_theta is 500000.0, the base has"),
        ({"rope_parameters": ..., "rope_theta": 5e5}, "a: rope_theta is 500000.0, the base has"),
        ({"rope_parameters": ..., "rope_theta": 1e4}, None),
        (
            {
                **{"rope_parameters": ..., "rope_theta": 1e4},
                "rope_scaling": {"type": "linear", "factor": 2.0},
            },
            "a: rope_type is 'linear', the base has 'default'",
        ),
    ],
)
def test_settings_that_the_merge_loses_are_noted(
    tiny: Tiny, changed: Changed, config: dict[str, Any], noted: str | None
) -> None:
    notes = opened(tiny(), a=changed(tiny(1), **config)).notes
    assert len(notes) == (noted is not None)
    assert noted is None or notes[0].startswith(noted)


OLD = {"rope_parameters": ...}  # written before Transformers 5
GEMMA: dict[str, Any] = {
    **{"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "head_dim": 8},
    **{"rms_norm_eps": 1e-6, "layer_types": ["full_attention"] * 3},
}


LINEAR = {"rope_type": "linear", "factor": 8}


def scaled(factor: float) -> dict[str, Any]:
    """Rotary settings of Gemma 3 as Transformers 5 writes them."""
    full = {"rope_type": "linear", "factor": factor, "rope_theta": 1e6}
    return {"full_attention": full, "sliding_attention": {"rope_type": "default"}}


@pytest.mark.parametrize(
    ("ours", "theirs", "noted"),
    [
        (
            OLD,
            OLD | {"rope_scaling": {"type": "yarn", "factor": 4.0}},
            "rope_type is 'yarn', the base has 'default'",
        ),
        (OLD, OLD | {"rope_theta": 1e6}, "rope_theta is 1000000.0, the base has 10000.0"),
        ({}, OLD | {"rope_theta": 1e4, "rope_scaling": None}, None),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            OLD | {"rope_scaling": {"type": "linear", "factor": 2}, "rope_theta": 10000},
            None,
        ),
        (
            {"model_type": "mistral", "sliding_window": 4096},
            {"model_type": "mistral", "sliding_window": None},
            "sliding_window is None, the base has 4096",
        ),
        ({"model_type": "mistral", "sliding_window": 4096}, {"model_type": "mistral"}, None),
        (
            GEMMA | {"rope_parameters": scaled(8.0)},
            GEMMA | {"rope_parameters": scaled(2.0)},
            "full_attention.factor is 2.0, the base has 8.0",
        ),
        (
            GEMMA | {"rope_parameters": scaled(8.0)},
            GEMMA | OLD | {"rope_theta": 1e6, "rope_scaling": LINEAR},
            None,
        ),
        (
            {"model_type": "unheard_of", "sliding_window": 9, "rope_parameters": scaled(8.0)},
            {"model_type": "unheard_of", "sliding_window": None, "rope_parameters": scaled(8.0)},
            "sliding_window is None, the base has 9",
        ),
    ],
)
def test_settings_are_compared_as_transformers_reads_them(
    tiny: Tiny,
    changed: Changed,
    ours: dict[str, Any],
    theirs: dict[str, Any],
    noted: str | None,
) -> None:
    models = opened(changed(tiny(), **ours), a=changed(tiny(1), **theirs))
    said = [note for note in models.notes if "keeps the base's" in note]
    assert said == ([] if noted is None else [f"a: {noted}. The merged model keeps the base's."])


# select


def assert_same(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("operator", ["linear", "ties", "dare_ties", "task_arithmetic"])
def test_a_selection_merges_as_if_it_were_opened_alone(tiny: Tiny, operator: str) -> None:
    everything = opened(tiny(), a=tiny(1), b=tiny(2), c=tiny(3))
    chosen = {"c": str(tiny(3)), "other name of the base": str(tiny()), "a": str(tiny(1))}
    assert_same(
        merged(everything.select(chosen), operator),
        merged(Library().open(str(tiny()), chosen), operator),
    )


def test_the_order_of_a_selection_counts(tiny: Tiny) -> None:
    both = {"a": str(tiny(1)), "b": str(tiny(2))}
    models = Library().open(str(tiny()), both)
    turned = dict(reversed(both.items()))
    assert models.select(both) is models
    assert_same(merged(models.select(turned), "slerp", t=0.0), merged(models, "slerp", t=1.0))


def test_a_selection_keeps_row_maps(tiny: Tiny) -> None:
    other = tiny(1, words=(*SPECIAL, *reversed(WORDS[4:])))
    chosen = {"again": str(other), "base again": str(tiny())}
    selected = opened(tiny(), "base", a=other, b=tiny(2)).select(chosen)
    assert_same(merged(selected), merged(Library().open(str(tiny()), chosen, "base")))


def test_a_tied_selection_of_untied_models_repeats_the_embedding(tiny: Tiny) -> None:
    base, tied, untied = tiny(tied=True), tiny(1, tied=True), tiny(2)
    chosen = {"a": str(tied)}
    parameters: dict[str, Any] = {"density": 0.5, "weight": {"head": 9.0, "other": [1.0, 2.0, 3.0]}}
    alone = merged(Library().open(str(base), chosen), "dare_linear", **parameters)
    selected = merged(opened(base, a=tied, b=untied).select(chosen), "dare_linear", **parameters)
    assert_same(selected, {**alone, HEAD: alone[EMBEDDING]})


def test_a_model_outside_the_search_cannot_be_selected(tiny: Tiny) -> None:
    with pytest.raises(PlanError, match="not among the models of this search: /elsewhere"):
        opened(tiny(), a=tiny(1)).select({"a": "/elsewhere"})


# modules


def chosen(base: Path, modules: list[str], operator: str = "linear", **sources: Path) -> Models:
    named = {name: str(path) for name, path in sources.items()}
    recipe = {"base": str(base), "sources": named, "operator": operator, "dtype": "float32"}
    return Library().models(Recipe.model_validate({**recipe, "modules": modules}))


@pytest.mark.parametrize(
    "modules", [["model.layers.1"], ["model.layers.1.", UP], ["model.layers.1", "model.layers.1"]]
)
def test_only_modules_that_are_named_are_merged(tiny: Tiny, modules: list[str]) -> None:
    models = chosen(tiny(), modules, a=tiny(1))
    values, base, source = merged(models), weights(tiny()), weights(tiny(1))
    for name, value in values.items():
        inside = name.startswith("model.layers.1.")
        assert torch.equal(value, (source if inside else base)[name])
    slots = {slot.name: slot for slot in models.slots}
    assert slots[UP].merged
    assert not slots[HEAD].merged
    assert models.notes == []


def test_a_prefix_ends_at_a_dot(tiny: Tiny) -> None:
    models = chosen(tiny(num_hidden_layers=11), ["model.layers.1"], a=tiny(1, num_hidden_layers=11))
    assert {s.place.layer for s in models.slots if s.merged} == {1}


def test_a_prefix_of_nothing_is_named_with_what_there_is(tiny: Tiny, changed: Changed) -> None:
    other = changed(tiny(1), model_type="other")
    with pytest.raises(PlanError) as error:
        chosen(tiny(), ["model.layer", "lm_head"], a=other)
    assert error.value.problems == (
        "a: model_type is 'other', the base has 'llama'. Drop this source.",
        "modules: no tensor is under 'model.layer'. Did you mean 'model.layers'?",
    )


def test_what_only_a_source_has_stays_out_unless_its_module_is_named(
    tiny: Tiny, changed: Changed
) -> None:
    more = changed(tiny(1), put("model.extra.weight", torch.zeros(3)))
    assert "model.extra.weight" not in merged(chosen(tiny(), ["model.norm"], a=more))
    assert "model.extra.weight" in merged(chosen(tiny(), ["model.norm", "model.extra"], a=more))


def test_a_selection_leaves_other_modules_alone(tiny: Tiny) -> None:
    models = chosen(tiny(), ["model.norm"], a=tiny(1), b=tiny(2))
    values = merged(models.select({"b": str(tiny(2)), "base again": str(tiny())}), normalize=False)
    assert torch.equal(values[UP], weights(tiny())[UP])


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A model that sees and speaks, by its seed."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    def make(seed: int) -> Path:
        folder = tmp_path_factory.mktemp("llava")
        text = LlamaConfig(
            **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3},
            **{"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40},
        )
        vision = CLIPVisionConfig(
            **{"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3},
            **{"num_attention_heads": 2, "image_size": 8, "patch_size": 4},
        )
        config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=39)
        model = LlavaForConditionalGeneration(config)
        for number, (_, parameter) in enumerate(sorted(model.named_parameters())):
            generator = torch.Generator().manual_seed(1000 * seed + number)
            parameter.data = torch.randn(parameter.shape, generator=generator)
        model.save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize("plain", [False, True])
def test_the_language_of_a_model_that_sees_is_merged_and_its_eyes_are_kept(
    llava: Callable[[int], Path], changed: Changed, plain: bool
) -> None:
    base, source = llava(0), llava(1)
    if plain:  # a language model that was trained on its own, saved under the same names
        text = json.loads((source / "config.json").read_text())["text_config"]
        towers = [n for n in weights(source) if not n.startswith("language_model.")]
        source = changed(source, drop(*towers), **text, text_config=..., vision_config=...)
    models = chosen(base, ["language_model"], a=source)
    values, own, other = merged(models), weights(base), weights(source)
    assert values.keys() == own.keys()
    for name, value in values.items():
        expected = other if name.startswith("language_model.") else own
        assert torch.equal(value, expected[name])
    assert models.notes == []


def test_a_model_with_other_names_throughout_is_refused(
    llava: Callable[[int], Path], tiny: Tiny, changed: Changed
) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[f"x{name}"] = tensors.pop(name)

    with pytest.raises(CheckpointError, match=r"its blocks hold xmodel\.layers.* declares no rule"):
        chosen(llava(0), ["language_model"], a=changed(tiny(1), rename))


def test_another_kind_of_language_model_is_noted(
    llava: Callable[[int], Path], changed: Changed
) -> None:
    text = json.loads((llava(1) / "config.json").read_text())["text_config"]
    keys = {**text, "model_type": "mistral", "text_config": ..., "vision_config": ...}
    models = chosen(llava(0), ["language_model"], a=changed(llava(1), **keys))
    assert models.notes == ["a: its language model is 'mistral', the base's is 'llama'."]
