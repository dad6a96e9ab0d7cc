"""Blocks that are what they are by their number: moved rightly, or refused by name."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from evomerge.errors import PlanError
from evomerge.recipes import Recipe
from evomerge.weights.block_numbers import displaced, spelled_out
from evomerge.weights.build import build
from evomerge.weights.library import Library
from evomerge.weights.metadata import _BLOCK_LISTS
from evomerge.weights.names import DEPTH_KEYS

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
        r"^slices: block 1 would be another as block 2 of 7: of gpt2, scale_attn_by_inverse_layer_"
        r"idx goes by the number of a block, and the config has no list of it. Leave the blocks"
    )
    with pytest.raises(PlanError, match=said):
        Library().plan(stack(folder, BLOCKS))
    built = load(build(stack(folder, (0, 1, 2)), tmp_path / "built"))
    expected = load(folder)
    expected.transformer.h = expected.transformer.h[:3]
    assert torch.equal(logits(built), logits(expected))
    plain = make(tmp_path / "plain", "gpt2")
    assert Library().plan(stack(plain, BLOCKS)).models.layers == len(BLOCKS)


def test_a_pattern_in_letters_is_no_list(tmp_path: Path) -> None:
    folder = make(tmp_path / "exaone4", "exaone4", forget=())
    content = json.loads((folder / "config.json").read_text())
    content["sliding_window_pattern"] = "LLG"
    (folder / "config.json").write_text(json.dumps(content))
    assert Library().plan(stack(folder, BLOCKS)).models.layers == len(BLOCKS)
    del content["layer_types"]
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(PlanError, match="of exaone4, layer_types goes by the number of a block"):
        Library().plan(stack(folder, BLOCKS))


@pytest.mark.parametrize(
    ("said", "moved", "in_place"),
    [
        ({"model_type": "deepseek_v3", "first_k_dense_replace": 1}, (0, 0, 1), (0, 2, 1, 2, 3)),
        ({"model_type": "qwen3_moe", "decoder_sparse_step": 2}, (1, 1), (2, 1, 0, 3)),
        ({"model_type": "gemma4_text", "num_kv_shared_layers": 2}, (0, 1, 2), (0, 1, 2, 3)),
        ({"model_type": "diffllama"}, (1, 0), (0, 1)),
    ],
)
def test_a_block_may_stand_where_its_number_makes_it_what_it_was(
    said: dict[str, Any], moved: tuple[int, ...], in_place: tuple[int, ...]
) -> None:
    config = {**said, "num_hidden_layers": 4}
    for key in ("layer_types", "mlp_layer_types"):
        config[key] = ["x"] * 4
    assert any(list(said)[-1] in text or "lambda" in text for text in problems_of(config, moved))
    assert not problems_of(config, in_place)


def problems_of(config: dict[str, Any], blocks: tuple[int, ...]) -> list[str]:
    return list(displaced((config, block) for block in blocks))


def test_what_transformers_makes_up_of_numbers_is_known_of_every_family() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    met = set()
    for kind in sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) & set(CONFIG_MAPPING.keys())):
        found = made_up(kind, 7)
        if found is None:
            continue
        said, lists = found
        ours = spelled_out(said)
        unknown = {key for key, value in lists.items() if ours.get(key) != value}
        refused = " ".join(problems_of(ours, (1, 0, *range(2, 7))))
        assert not unknown or f"of {kind}, " in refused, f"{kind}: {unknown}"
        met |= {kind} if lists else set()
    assert {"gpt_oss", "gemma4_text", "qwen3_next"} <= met


def made_up(kind: str, layers: int) -> tuple[dict[str, Any], dict[str, list[Any]]] | None:
    """A config that says its depth alone, and lists of it whose values differ by block."""
    from transformers import AutoConfig

    for key in DEPTH_KEYS:
        said = {"model_type": kind, key: layers}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                config = AutoConfig.for_model(**said).to_dict()
            except Exception:
                continue  # it has no such key, or cannot be made of nothing
        if config.get(key) == layers:
            lists = {
                key: value
                for key, value in config.items()
                if isinstance(value, list) and len(value) == layers and key not in _BLOCK_LISTS
            }
            return said, {k: v for k, v in lists.items() if len({str(item) for item in v}) > 1}
    return None
