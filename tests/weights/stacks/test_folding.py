"""Scaled stacks, folded into plain checkpoints, against Transformers with hooks that scale."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evomerge.errors import ExportError, PlanError
from evomerge.recipes import Recipe
from evomerge.recipes.mergekit import from_mergekit, to_mergekit
from evomerge.weights.build import build
from evomerge.weights.library import Library
from evomerge.weights.merge import merge
from evomerge.weights.stacks.folding import FAMILIES
from evomerge.yaml_files import parse_yaml

Tiny = Callable[..., Path]
Pair = tuple[Path, Path]

COMMON = {
    **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
    **{"rms_norm_eps": 1e-12, "layer_norm_eps": 1e-12, "sliding_window": 4, "pad_token_id": 0},
    **{"bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3},
}
OF_FAMILY: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "mistral": {"head_dim": 8},
    "ministral": {"head_dim": 8},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {"head_dim": 8},
    "seed_oss": {"head_dim": 8},
    "smollm3": {"no_rope_layer_interval": 2},
    "granite": {"residual_multiplier": 0.7},
    "qwen2_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    | {"shared_expert_intermediate_size": 24, "mlp_only_layers": [1]},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    | {"head_dim": 8},
    "mixtral": {"num_local_experts": 4},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": {"head_dim": 8, "query_pre_attn_scalar": 8, "layer_types": None}
    | {"sliding_window_pattern": 2},
    "olmo2": {"attention_bias": True},
    "olmo3": {},
    "phi3": {},
    "phi": {"qk_layernorm": False},
    "gpt_neox": {"use_parallel_residual": True},
    "gpt2": {"n_layer": 3, "n_embd": 32, "n_head": 4, "n_positions": 64}
    | {"layer_norm_epsilon": 1e-12},
    "starcoder2": {"norm_epsilon": 1e-12},
    "cohere": {},
}
# the hops of the stack: model and block
HOPS = [("a", 0), ("a", 1), ("b", 1), ("b", 0), ("b", 1), ("a", 1), ("b", 2), ("a", 2)]
SCALES = (0.8, -1.5, 0.6, 1.0, -1.25, 1.1, -0.9, 1.3)
TOKENS = torch.arange(24).remainder(11).mul(5).add(3).view(2, 12)


def make(folder: Path, kind: str, seed: int, **keys: Any) -> Path:
    """A tiny random model of a family."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **{**COMMON, **OF_FAMILY[kind], **keys})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        gain = 1.0 if parameter.dim() == 1 else 0.0
        parameter.data = gain * parameter.data + 0.3 * noise
    model.save_pretrained(folder)
    return folder


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def blocks(model: Any) -> tuple[nn.Module, str]:
    """The module that holds the blocks, and what it calls them."""
    inner = model.base_model
    return next((inner, n) for n in ("layers", "h") if hasattr(inner, n))


def stacked(pair: Pair, hops: list[tuple[str, int]], scales: tuple[float, ...]) -> Any:
    """A stack that scales the residual stream explicitly, made of modules."""
    models = {"a": load(pair[0]), "b": load(pair[1])}
    owned = {name: getattr(*blocks(model)) for name, model in models.items()}
    whole = models["a"]
    configs = {name: model.config for name, model in models.items()}
    chosen = [copy.deepcopy(owned[name][own]) for name, own in hops]
    for key in ("layer_types", "no_rope_layers"):
        if getattr(whole.config, key, None) is not None:
            setattr(whole.config, key, [getattr(configs[n], key)[own] for n, own in hops])
    for block, scale in zip(chosen, scales, strict=True):
        block.register_forward_pre_hook(scaling(scale), with_kwargs=True)
    holder, name = blocks(whole)
    setattr(holder, name, nn.ModuleList(chosen))
    for key in ("num_hidden_layers", "n_layer"):
        if key in whole.config.to_dict():
            setattr(whole.config, key, len(hops))
    return whole


def scaling(scale: float) -> Callable[..., Any]:
    def hook(block: nn.Module, args: Any, kwargs: Any) -> Any:
        if args:
            return (args[0] * scale, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"] * scale}

    return hook


def recipe(
    pair: tuple[str | Path | Recipe, str | Path],
    hops: Any = HOPS,
    scales: Any = SCALES,
    **keys: Any,
) -> Recipe:
    a, b = (model if isinstance(model, Recipe) else str(model) for model in pair)
    content = {
        **{"base": a, "sources": {"a": a, "b": b}, "operator": "passthrough"},
        **{"slices": [{name: [own, own + 1]} for name, own in hops], "scales": scales},
        "dtype": "float32",
    }
    return Recipe.model_validate(content | keys)


@torch.no_grad()
def logits(model: Any, tokens: Tensor = TOKENS) -> Tensor:
    found: Tensor = model(tokens, use_cache=False).logits
    return found


def greedy(model: Any) -> list[list[int]]:
    tokens = TOKENS[:, :4]
    for _ in range(8):
        tokens = torch.cat([tokens, logits(model, tokens)[:, -1:].argmax(-1)], 1)
    return tokens.tolist()


def difference(one: Tensor, two: Tensor) -> float:
    return float((one - two).norm() / two.norm())


@pytest.fixture(scope="module")
def pair_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """Two models of a family."""
    made: dict[str, Pair] = {}

    def get(kind: str) -> Pair:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            made[kind] = (make(folder / "a", kind, 1), make(folder / "b", kind, 2))
        return made[kind]

    return get


def test_every_family_is_tried_here() -> None:
    assert OF_FAMILY.keys() == FAMILIES.keys()


@pytest.mark.parametrize("kind", OF_FAMILY)
def test_a_folded_checkpoint_answers_as_the_stack_that_scales_its_stream(
    pair_of: Callable[[str], Pair], kind: str, tmp_path: Path
) -> None:
    pair = pair_of(kind)
    expected = stacked(pair, HOPS, SCALES)
    built = load(build(recipe(pair), tmp_path / "built"))
    assert difference(logits(built), logits(expected)) < 5e-6
    assert greedy(built) == greedy(expected)
    plain = load(build(recipe(pair, scales=()), tmp_path / "plain"))
    assert difference(logits(plain), logits(expected)) > 0.01  # the scales do matter


def test_a_cache_of_keys_follows_a_folded_stack(
    pair_of: Callable[[str], Pair], tmp_path: Path
) -> None:
    pair = pair_of("qwen3")
    built = load(build(recipe(pair), tmp_path / "built"))
    prompt = TOKENS[:, :4]
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    made = built.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    assert made.tolist() == greedy(stacked(pair, HOPS, SCALES))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_tied_head_reads_the_turned_final_norm(
    pair_of: Callable[[str], Pair], tmp_path: Path, sign: float
) -> None:
    pair = pair_of("gemma")
    hops, scales = [("a", 0), ("b", 1), ("a", 2)], (1.0, 1.0, sign * 0.5)
    folder = build(recipe(pair, hops, scales), tmp_path / "built")
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"]
    assert difference(logits(load(folder)), logits(stacked(pair, hops, scales))) < 5e-6


def test_a_folded_recipe_in_place_of_a_model_is_the_checkpoint(
    pair_of: Callable[[str], Pair], tmp_path: Path
) -> None:
    pair = pair_of("qwen3")
    inner = recipe(pair, HOPS[:4], SCALES[:4])
    hops, scales = [("a", 3), ("b", 0), ("a", 2), ("a", 3)], (1.2, -0.7, 0.8, 0.9)
    nested = build(recipe((inner, pair[1]), hops, scales), tmp_path / "nested")
    first = build(inner, tmp_path / "inner")
    plain = build(recipe((first, pair[1]), hops, scales), tmp_path / "plain")
    name = "model.safetensors"
    assert (nested / name).read_bytes() == (plain / name).read_bytes()
    expected = stacked((first, pair[1]), hops, scales)
    assert difference(logits(load(nested)), logits(expected)) < 5e-6


def test_merged_blocks_are_scaled_after_the_merge(
    pair_of: Callable[[str], Pair], tmp_path: Path
) -> None:
    pair = pair_of("olmo2")
    content = {"slices": [{"a": [0, 2], "b": [1, 3]}, {"b": [2, 3]}], "operator": "linear"}
    merged = recipe(pair, scales=(), **content)
    expected = load(build(merged, tmp_path / "merged"))
    scales = (-0.5, 1.5, 1.25)
    for block, scale in zip(getattr(*blocks(expected)), scales, strict=True):
        block.register_forward_pre_hook(scaling(scale), with_kwargs=True)
    folded = load(build(recipe(pair, scales=scales, **content), tmp_path / "folded"))
    assert difference(logits(folded), logits(expected)) < 5e-6


def test_powers_of_two_fold_exactly_and_leave_all_else_alone(tiny: Tiny) -> None:
    scaled = recipe((tiny(), tiny(1)), [("a", 0), ("b", 1), ("a", 2)], (2.0, -4.0, 0.5))
    folded = dict(merge(Library().plan(scaled)))
    plain = dict(merge(Library().plan(scaled.model_copy(update={"scales": ()}))))
    products = (2.0, -8.0, -4.0)
    for name, value in folded.items():
        factor = 1.0
        for layer, product in enumerate(products):
            if f"layers.{layer}." in name:
                if "o_proj" in name or "down_proj" in name:
                    factor = 1 / product
                elif "norm" in name and product < 0:
                    factor = -1.0
        if name == "model.norm.weight":
            factor = -1.0
        assert torch.equal(value, plain[name] * factor), name


def test_what_modules_leave_alone_is_folded_too(tiny: Tiny) -> None:
    content = {"slices": [], "operator": "linear", "modules": ["model.layers.0.mlp"]}
    scaled = recipe((tiny(), tiny(1)), scales=(2.0, 1.0, 1.0), **content)
    name = "model.layers.1.mlp.down_proj.weight"
    folded = dict(merge(Library().plan(scaled)))
    plain = dict(merge(Library().plan(scaled.model_copy(update={"scales": ()}))))
    assert torch.equal(folded[name], plain[name] / 2)


def test_folding_happens_before_the_one_cast(tiny: Tiny) -> None:
    hops, name = [("b", 0), ("a", 1)], "model.layers.0.mlp.down_proj.weight"
    exact = recipe((tiny(), tiny(1)), hops, (3.0, 1.0))
    rounded = exact.model_copy(update={"dtype": "bfloat16"})
    whole = dict(merge(Library().plan(exact)))[name]
    assert torch.equal(dict(merge(Library().plan(rounded)))[name], whole.bfloat16())


@pytest.mark.parametrize("spelled", [True, False])
def test_sliding_windows_move_with_their_blocks(
    pair_of: Callable[[str], Pair], changed: Callable[..., Path], tmp_path: Path, spelled: bool
) -> None:
    """Older configs leave it to the number of a block whether its window slides."""
    a, b = pair_of("gemma2")
    if not spelled:
        a, b = changed(a, layer_types=...), changed(b, layer_types=...)
    folder = build(recipe((a, b)), tmp_path / "built")
    types = json.loads((folder / "config.json").read_text())["layer_types"]
    kinds = ("sliding_attention", "full_attention")
    assert types == [kinds[own % 2] for _, own in HOPS]


def test_a_family_that_does_not_fold_is_refused_by_name(
    tiny: Tiny, changed: Callable[..., Path]
) -> None:
    models = changed(tiny(), model_type="lama"), changed(tiny(1), model_type="lama")
    wrong = recipe(models, [("a", 0)], (2.0,), parameters={"weight": 1.0})
    with pytest.raises(PlanError, match=r"parameters\.weight"):
        Library().plan(wrong)
    with pytest.raises(PlanError, match=r"lama is none of the families .* 'llama'"):
        Library().plan(recipe(models, [("a", 0)], (2.0,)))


def test_unknown_and_missing_tensors_are_reported_together(
    tiny: Tiny, changed: Callable[..., Path]
) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.1.mlp.side.weight"] = torch.ones(2)
        del tensors["model.layers.0.input_layernorm.weight"]

    models = changed(tiny(), change), changed(tiny(1), change)
    with pytest.raises(PlanError) as error:
        Library().plan(recipe(models, [], (2.0, 1.0, 1.0), operator="linear"))
    first, second = error.value.problems
    assert "model.layers.1.mlp.side.weight is none of the tensors known of this family" in first
    assert "block 0 has no tensor of input_layernorm" in second


def test_scales_are_one_a_block_of_the_model_too(tiny: Tiny) -> None:
    with pytest.raises(PlanError, match=r"scales: 2 values, but the model has 3 blocks"):
        Library().plan(recipe((tiny(), tiny(1)), [], (2.0, 1.0), operator="linear"))


# Exports


def exported(one: Recipe) -> str:
    steps = Library().plan(one).steps
    places = {step.slot.name: step.slot.place for step in steps}
    shapes = {step.slot.name: step.slot.shape for step in steps}
    return to_mergekit(one, places, shapes, {step.slot.name: step.fold for step in steps})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["qwen3", "olmo2", "qwen3_moe", "phi"])
def test_a_scaled_stack_is_mergekit_yaml_of_the_same_weights(
    pair_of: Callable[[str], Pair], kind: str, dtype: str
) -> None:
    one = recipe(pair_of(kind), dtype=dtype)
    text = exported(one)
    assert text.startswith(f"# evomerge recipe {one.digest}\n")
    content = parse_yaml(text, "m.yaml")
    assert content["merge_method"] == "passthrough"
    places = {slot.name: slot.place for slot in Library().plan(one).models.slots}
    again = from_mergekit(content, "m.yaml", lambda _: 3, lambda _: places)
    assert not again.scales
    found = dict(merge(Library().plan(again)))
    for name, value in merge(Library().plan(one)):
        assert torch.equal(found[name], value), name


def test_a_factor_of_the_recipe_and_a_scale_are_exported_as_one(tiny: Tiny) -> None:
    content = {"slices": [{"b": [0, 3]}], "parameters": {"scale": {"mlp": 0.5, "other": 1.0}}}
    one = recipe((tiny(), tiny(1)), scales=(2.0, 1.0, 0.25), **content)
    places = {slot.name: slot.place for slot in Library().plan(one).models.slots}
    again = from_mergekit(parse_yaml(exported(one), "m"), "m", lambda _: 3, lambda _: places)
    found = dict(merge(Library().plan(again)))
    for name, value in merge(Library().plan(one)):
        assert torch.equal(found[name], value), name


def test_scales_of_merged_blocks_are_no_mergekit_yaml(tiny: Tiny) -> None:
    one = recipe((tiny(), tiny(1)), [], (2.0, 1.0, 1.0), operator="linear")
    with pytest.raises(ExportError, match=r"mergekit's linear has no factor on what it gives"):
        exported(one)


def test_gains_that_are_stored_less_one_are_no_mergekit_yaml(
    pair_of: Callable[[str], Pair],
) -> None:
    with pytest.raises(ExportError, match=r"norms, model\..* first, store their gain less one"):
        exported(recipe(pair_of("gemma2")))
    exported(recipe(pair_of("gemma"), scales=[abs(scale) for scale in SCALES]))
