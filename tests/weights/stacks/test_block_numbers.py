"""Blocks that are what they are by their number: moved rightly, or refused by name."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_configs import tiny_config
from torch import nn
from transformers import PerceiverConfig, PerceiverForMaskedLM

from evomerge.errors import PlanError
from evomerge.recipes import Recipe
from evomerge.weights.build import build
from evomerge.weights.library import Library
from evomerge.weights.stacks.block_numbers import Described, stack_config
from evomerge.weights.stacks.stacking import stack_verdict

COMMON = {
    **{"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
    **{"sliding_window": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    **{"initializer_range": 0.3},
}
OF_FAMILY: dict[str, dict[str, Any]] = {
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    "exaone4": {"sliding_window_pattern": 3},
    "vaultgemma": {"head_dim": 8, "query_pre_attn_scalar": 8},
    "gpt2": {"n_layer": 4, "n_embd": 32, "n_head": 4, "n_positions": 64},
}
TOKENS = torch.arange(24).remainder(11).mul(5).add(3).view(2, 12)
FULL = ["full"] * 4
BLOCKS = (0, 1, 1, 0, 2, 3, 3)


def make(
    folder: Path, kind: str, *, forget: tuple[str, ...] = ("layer_types",), **keys: Any
) -> Path:
    """A tiny random model of a family, whose config leaves some keys to be made up."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, **{**COMMON, **OF_FAMILY[kind], **keys})
    with torch.random.fork_rng():
        torch.manual_seed(1)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    content = json.loads((folder / "config.json").read_text())
    kept = {key: value for key, value in content.items() if key not in forget}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(TOKENS, use_cache=False).logits
    return found


def stack(folder: Path, blocks: tuple[int, ...]) -> Recipe:
    keys = {"base": str(folder), "sources": {"a": str(folder)}, "operator": "passthrough"}
    slices = [{"a": [block, block + 1]} for block in blocks]
    return Recipe.model_validate({**keys, "dtype": "float32", "slices": slices})


@pytest.mark.parametrize("kind", ["gpt_oss", "exaone4", "vaultgemma"])
def test_a_stack_of_blocks_that_slide_by_their_number_is_that_of_the_modules(
    kind: str, tmp_path: Path
) -> None:
    folder = make(tmp_path / kind, kind)
    built = load(build(stack(folder, BLOCKS), tmp_path / "built"))
    expected = load(folder)
    own = expected.model.layers
    expected.model.layers = nn.ModuleList(copy.deepcopy(own[block]) for block in BLOCKS)
    types = expected.config.layer_types
    expected.config.layer_types = [types[block] for block in BLOCKS]
    expected.config.num_hidden_layers = len(BLOCKS)
    assert len(set(types)) == 2
    assert torch.equal(logits(built), logits(expected))
    assert built.config.layer_types == expected.config.layer_types


def test_blocks_that_divide_by_their_number_stay_where_they_are(tmp_path: Path) -> None:
    folder = make(tmp_path / "gpt2", "gpt2", scale_attn_by_inverse_layer_idx=True)
    said = (
        r"^slices: block 1 would be another as block 2 of 7: of gpt2, attn.scaling goes by the "
        r"number of a block, and the config has no list of it. Leave the blocks where they are.$"
    )
    with pytest.raises(PlanError, match=said):
        Library().plan(stack(folder, BLOCKS))
    built = load(build(stack(folder, (0, 1, 2)), tmp_path / "built"))
    expected = load(folder)
    expected.transformer.h = expected.transformer.h[:3]
    assert torch.equal(logits(built), logits(expected))
    plain = make(tmp_path / "plain", "gpt2")
    assert Library().plan(stack(plain, BLOCKS)).models.layers == len(BLOCKS)


@pytest.mark.parametrize(
    ("family", "keys", "trait", "moved", "in_place"),
    [
        ("deepseek_v3", {"first_k_dense_replace": 1}, "mlp", (0, 0, 1), (0, 2, 1, 2, 3)),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "mlp", (1, 1), (2, 1, 0, 3)),
        ("diffllama", {}, "self_attn.lambda_init", (1, 0), (0, 1)),
        ("rwkv", {}, "pre_ln", (0, 0, 1), (0, 2, 1)),
        ("minimax", {}, "self_attn.slope_rate", (0, 1, 1, 3), (0, 1, 2, 3)),
        ("modernbert", {}, "attn_norm", (1, 0, 2), (0, 2, 2, 1)),
        ("t5", {}, "layer.0.SelfAttention.relative_attention_bias", (1, 0), (0, 3, 3)),
        ("jamba", {"attn_layer_period": 2, "attn_layer_offset": 1}, "the block", (1, 0), (2, 1, 0)),
        ("deberta-v2", {"conv_kernel_size": 3}, "conv_kernel_size", (1, 0), (0, 2, 2)),
        ("minicpm3", {}, "residual_scale", (0, 1, 2), (2, 1, 0, 0)),
    ],
)
def test_a_block_may_stand_where_its_number_makes_it_what_it_was(
    family: str,
    keys: dict[str, Any],
    trait: str,
    moved: tuple[int, ...],
    in_place: tuple[int, ...],
) -> None:
    config = json_of(tiny_config(family, **keys))
    assert any(
        f"of {family}, {trait} goes by the number" in text for text in refused(config, moved)
    )
    assert refused(config, in_place) == []


def json_of(config: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(config.to_dict(), default=str))
    return found


def refused(config: dict[str, Any], blocks: tuple[int, ...]) -> list[str]:
    model = Described(config, 4)
    return stack_verdict(model, [(model, block) for block in blocks]).problems


@pytest.mark.parametrize(
    ("family", "keys", "key", "before", "after"),
    [
        ("bamba", {"attn_layer_indices": [1, 3]}, "attn_layer_indices", [1, 3], [2, 3, 5]),
        ("recurrent_gemma", {}, "block_types", ["recurrent", "recurrent", "attention"], "rraarr"),
        ("gemma2", {}, "layer_types", ["sliding_attention", "full_attention"] * 2, "sffsfs"),
        ("bart", {}, "decoder_layers", 4, 6),
        ("llama", {}, "num_hidden_layers", 4, 6),
        ("qwen3_moe", {"mlp_only_layers": [1]}, "mlp_only_layers", [1], [1, 2]),
        (
            *("longformer", {"attention_window": [2, 4, 6, 8]}, "attention_window"),
            *([2, 4, 6, 8], [2, 4, 4, 6, 8, 6]),
        ),
        (
            *("led", {"attention_window": [2, 4, 6, 8]}, "attention_window"),
            *([2, 4, 6, 8], [2, 4, 4, 6, 8, 6]),
        ),
        ("glm_moe_dsa", {"indexer_types": FULL}, "indexer_types", FULL, ["full"] * 6),
        (
            *("gpt_neo", {}, "attention_types", [[["global", "local"], 2]]),
            [[["global", "local", "local", "global", "local", "global"], 1]],
        ),
    ],
)
def test_settings_move_with_their_blocks(
    family: str, keys: dict[str, Any], key: str, before: Any, after: Any
) -> None:
    config = json_of(tiny_config(family, **keys))
    assert config[key] == before
    moves = {"bamba": (0, 2, 1, 3, 2, 3), "recurrent_gemma": (0, 1, 2, 2, 3, 1)}
    blocks = moves.get(family, (0, 1, 1, 2, 3, 2))
    assert refused(config, blocks) == []
    model = Described(config, 4)
    moved = stack_config(model, [(model, block) for block in blocks])[key]
    assert moved == after or "".join(item[0] for item in moved) == after


def test_a_list_that_is_as_long_as_the_model_by_chance_stays_as_it_is() -> None:
    """BEiT's scales of pooling, of which a model of any depth has four."""
    model = Described(json_of(tiny_config("beit")), 4)
    assert model.config["pool_scales"] == [1, 2, 3, 6]
    stacked = stack_config(model, [(model, block) for block in (0, 1, 1, 2, 3)])
    assert stacked["pool_scales"] == [1, 2, 3, 6]


def test_the_windows_of_two_models_go_where_their_blocks_go() -> None:
    ours, theirs = (
        Described(json_of(tiny_config("longformer", attention_window=windows)), 4)
        for windows in ([2, 4, 6, 8], [10, 12, 14, 16])
    )
    origins = [(ours, 0), (theirs, 3), (ours, 2), (theirs, 1), (ours, 3)]
    assert stack_verdict(ours, origins) == ([], [])
    assert stack_config(ours, origins)["attention_window"] == [2, 16, 6, 12, 8]


def test_settings_keyed_by_block_numbers_move_with_their_blocks() -> None:
    base = Described({"per_layer_config": {"0": {"head_dim": 8}, "3": {"head_dim": 16}}}, 4)
    other = Described({"per_layer_config": {"1": {"head_dim": 4}}}, 4)
    moved = stack_config(base, [(base, 3), (other, 1), (base, 1), (base, 0)])
    assert moved["per_layer_config"] == {
        "0": {"head_dim": 16},
        "1": {"head_dim": 4},
        "3": {"head_dim": 8},
    }


def test_tensors_with_a_part_for_every_block_keep_the_blocks_in_place() -> None:
    config = json_of(tiny_config("gemma4_text"))
    said = (
        "slices: of gemma4_text, model.embed_tokens_per_layer.weight has a part for every block, "
        "which does not move with it. Leave the blocks where they are."
    )
    assert said in refused(config, (0, 2, 1, 3))  # though it is as deep as the model
    assert refused(config, (0, 1, 2, 3)) == []


def test_blocks_that_share_weights_come_from_one_model() -> None:
    ours, theirs = (Described(json_of(tiny_config("zamba2")), 4) for _ in range(2))
    mixed = [(theirs if block == 1 else ours, block) for block in range(4)]
    (said,) = stack_verdict(ours, mixed).problems
    assert said.endswith("in common. Take all blocks from one model.")
    assert stack_verdict(ours, [(ours, block) for block in range(4)]).problems == []


def test_a_family_that_transformers_does_not_have_is_noted() -> None:
    model = Described({"model_type": "own", "num_hidden_layers": 3}, 3)
    problems, notes = stack_verdict(model, [(model, 1), (model, 0)])
    assert (problems, len(notes)) == ([], 1)
    assert notes[0].startswith("slices: Transformers builds no own here")
    assert stack_verdict(model, [(model, block) for block in range(3)]) == ([], [])


def test_a_list_of_the_numbers_of_all_blocks_is_one_of_numbers() -> None:
    config = {"num_hidden_layers": 3, "moe_layers": [0, 1, 2], "no_rope_layers": [1, 1, 0]}
    model = Described(config, 3)
    stacked = stack_config(model, [(model, 0), (model, 2), (model, 2), (model, 1)])
    assert stacked["moe_layers"] == [0, 1, 2, 3]
    assert stacked["no_rope_layers"] == [1, 0, 0, 1]


def test_blocks_that_no_key_of_the_config_counts_are_not_stacked(tmp_path: Path) -> None:
    config = PerceiverConfig(
        num_latents=8,
        d_latents=16,
        d_model=16,
        num_blocks=1,
        num_self_attends_per_block=4,
        num_self_attention_heads=2,
        num_cross_attention_heads=2,
        vocab_size=40,
        max_position_embeddings=16,
    )
    PerceiverForMaskedLM(config).save_pretrained(tmp_path / "model")
    with pytest.raises(PlanError, match="does not count them"):
        build(stack(tmp_path / "model", (0, 1, 2, 1, 2, 3)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    build(stack(tmp_path / "model", (3, 1, 2, 0)), tmp_path / "out")
