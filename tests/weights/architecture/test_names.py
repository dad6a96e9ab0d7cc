from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import transformers

from evomerge.recipes.places import Place, precedes_blocks, renumber
from evomerge.weights.architecture.names import depth, places, stack

SIZES: dict[str, Any] = {
    **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "vocab_size": 64},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0},
    **{"bos_token_id": 1, "eos_token_id": 2},
}
LLAMA = {
    "attention": "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj",
    "mlp": "mlp.gate_proj mlp.up_proj mlp.down_proj",
    "norm": "input_layernorm post_attention_layernorm",
}
QK_NORMS = "self_attn.q_norm self_attn.k_norm"
LLAMA_OUTER = {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
EXPERTS = "mlp.gate mlp.experts.gate_up_proj mlp.experts.down_proj"
SANDWICH = "pre_feedforward_layernorm post_feedforward_layernorm"


def more(roles: Mapping[str, str], **extra: str) -> dict[str, str]:
    return {role: f"{roles.get(role, '')} {extra.get(role, '')}" for role in {**roles, **extra}}


def moe(*shared: str) -> dict[str, str]:
    return {**LLAMA, "mlp": " ".join([EXPERTS, *shared])}


# class, config class, config, the path of the blocks, then modules by role in and around them
FAMILIES: dict[str, tuple[str, str, dict[str, Any], str, Mapping[str, str], Mapping[str, str]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", SIZES, "model.layers", LLAMA, LLAMA_OUTER),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", SIZES, "model.layers", LLAMA, LLAMA_OUTER),
    "qwen3": (
        *("Qwen3ForCausalLM", "Qwen3Config", SIZES, "model.layers"),
        *(more(LLAMA, attention=QK_NORMS), LLAMA_OUTER),
    ),
    "mixtral": (
        *("MixtralForCausalLM", "MixtralConfig", {**SIZES, "num_local_experts": 3}),
        *("model.layers", moe(), LLAMA_OUTER),
    ),
    "qwen2_moe": (
        *("Qwen2MoeForCausalLM", "Qwen2MoeConfig"),
        {**SIZES, "num_experts": 3, "moe_intermediate_size": 8},
        "model.layers",
        moe(
            "mlp.shared_expert_gate mlp.shared_expert.gate_proj mlp.shared_expert.up_proj",
            "mlp.shared_expert.down_proj",
        ),
        LLAMA_OUTER,
    ),
    "gemma2": (
        *("Gemma2ForCausalLM", "Gemma2Config", {**SIZES, "head_dim": 8}, "model.layers"),
        *(more(LLAMA, norm=SANDWICH), LLAMA_OUTER),
    ),
    "gemma3": (
        *("Gemma3ForCausalLM", "Gemma3TextConfig", {**SIZES, "head_dim": 8}, "model.layers"),
        *(more(LLAMA, norm=SANDWICH, attention=QK_NORMS), LLAMA_OUTER),
    ),
    "gpt2": (
        *("GPT2LMHeadModel", "GPT2Config"),
        {"n_embd": 32, "n_layer": 3, "n_head": 4, "vocab_size": 64, "n_positions": 64}
        | {"bos_token_id": 1, "eos_token_id": 2},
        "transformer.h",
        {"attention": "attn.c_attn attn.c_proj", "mlp": "mlp.c_fc mlp.c_proj", "norm": "ln_1 ln_2"},
        {
            "embedding": "transformer.wte transformer.wpe",
            **{"norm": "transformer.ln_f", "head": "lm_head"},
        },
    ),
    "gpt_neox": (
        *("GPTNeoXForCausalLM", "GPTNeoXConfig", SIZES, "gpt_neox.layers"),
        {
            "attention": "attention.query_key_value attention.dense",
            **{"mlp": "mlp.dense_h_to_4h mlp.dense_4h_to_h", "norm": LLAMA["norm"]},
        },
        {
            "embedding": "gpt_neox.embed_in",
            **{"norm": "gpt_neox.final_layer_norm", "head": "lm_head"},
        },
    ),
    "bloom": (
        *("BloomForCausalLM", "BloomConfig"),
        {"hidden_size": 32, "n_layer": 3, "n_head": 4, "vocab_size": 64, "pad_token_id": 0},
        "transformer.h",
        {
            "attention": "self_attention.query_key_value self_attention.dense",
            **{"mlp": "mlp.dense_h_to_4h mlp.dense_4h_to_h", "norm": LLAMA["norm"]},
        },
        {
            "embedding": "transformer.word_embeddings",
            "norm": "transformer.word_embeddings_layernorm transformer.ln_f",
            "head": "lm_head",
        },
    ),
    "bert": (
        *("BertForMaskedLM", "BertConfig", SIZES, "bert.encoder.layer"),
        {
            "attention": "attention.self.query attention.self.key attention.self.value "
            "attention.output.dense",
            "mlp": "intermediate.dense output.dense",
            "norm": "attention.output.LayerNorm output.LayerNorm",
        },
        {
            "embedding": "bert.embeddings.word_embeddings bert.embeddings.position_embeddings "
            "bert.embeddings.token_type_embeddings",
            "norm": "bert.embeddings.LayerNorm",
            "head": "cls.predictions cls.predictions.transform.dense cls.predictions.decoder "
            "cls.predictions.transform.LayerNorm",
        },
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_of_a_real_model_has_its_place(family: str) -> None:
    model, config_class, sizes, stack, inside, outside = FAMILIES[family]
    config = getattr(transformers, config_class)(**sizes)
    expected = {
        f"{stack}.{layer}.{module}": Place(layer, role)
        for role, modules in inside.items()
        for module in modules.split()
        for layer in range(3)
    } | {module: Place(None, role) for role, ms in outside.items() for module in ms.split()}
    found = places(names_of(getattr(transformers, model), config), config.to_dict())
    assert {re.sub(r"\.(weight|bias)$", "", name): p for name, p in found.items()} == expected


def names_of(model: Any, config: Any) -> list[str]:
    with torch.device("meta"):
        return list(model(config).state_dict())


def test_both_stacks_of_an_encoder_decoder_are_blocks() -> None:
    config = transformers.T5Config(d_model=32, d_ff=64, num_layers=3, num_heads=4, vocab_size=64)
    found = places(names_of(transformers.T5ForConditionalGeneration, config), config.to_dict())
    assert found["encoder.block.2.layer.0.SelfAttention.q.weight"] == Place(2, "attention")
    assert found["decoder.block.1.layer.1.EncDecAttention.o.weight"] == Place(1, "attention")
    assert found["decoder.block.1.layer.2.DenseReluDense.wi.weight"] == Place(1, "mlp")
    assert found["encoder.block.0.layer.1.layer_norm.weight"] == Place(0, "norm")
    assert found["shared.weight"] == Place(None, "embedding")
    assert found["decoder.final_layer_norm.weight"] == Place(None, "norm")


@pytest.mark.parametrize("vision_depth", [2, 3])
def test_a_vision_tower_is_outside_the_blocks_whatever_its_depth(vision_depth: int) -> None:
    text = {**SIZES, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
    vision = {"depth": vision_depth, "embed_dim": 32, "num_heads": 4, "hidden_size": 32}
    config = transformers.Qwen2VLConfig(text_config=text, vision_config=vision)
    names = names_of(transformers.Qwen2VLForConditionalGeneration, config)
    found = places(names, config.to_dict())
    tower = {place for name, place in found.items() if ".visual." in name}
    blocks = {name: place for name, place in found.items() if ".layers." in name}
    assert any(".visual.blocks.1." in name for name in names)
    assert tower == {Place(None, "other")}
    assert len(blocks) == 3 * 12
    assert all(place.layer == int(name.split(".")[3]) for name, place in blocks.items())
    assert {place.role for place in blocks.values()} == {"attention", "mlp", "norm"}


def numbered(template: str, count: int) -> list[str]:
    return [template.format(number) for number in range(count)]


def test_an_expert_number_is_not_a_layer() -> None:
    names = [
        name
        for layer in range(2)
        for name in numbered(f"model.layers.{layer}.block_sparse_moe.experts.{{}}.w1.weight", 8)
    ]
    found = places(names, {"num_hidden_layers": 2})
    assert {place.layer for place in found.values()} == {0, 1}
    assert found["model.layers.1.block_sparse_moe.experts.7.w1.weight"] == Place(1, "mlp")


def test_as_many_experts_as_blocks_are_not_taken_for_blocks() -> None:
    names = numbered("model.layers.0.mlp.experts.{}.up_proj.weight", 1)
    assert places(names, {"num_hidden_layers": 1})[names[0]] == Place(0, "mlp")


def test_blocks_beyond_the_depth_of_the_config_are_outside() -> None:
    names = numbered("model.layers.{}.self_attn.q_proj.weight", 4)
    found = places(names, {"num_hidden_layers": 3})
    assert [found[name] for name in names] == [
        *(Place(layer, "attention") for layer in range(3)),
        Place(None, "other"),
    ]


def test_a_partial_checkpoint_keeps_its_numbers() -> None:
    names = ["model.layers.0.mlp.up_proj.weight", "model.layers.2.mlp.up_proj.weight"]
    assert [p.layer for p in places(names, {"num_hidden_layers": 3}).values()] == [0, 2]


def test_a_name_without_prefix_still_has_a_block() -> None:
    found = places(["wte.weight", *numbered("h.{}.attn.bias", 3)], {"n_layer": 3})
    assert found["h.2.attn.bias"] == Place(2, "attention")


def test_attention_inside_a_module_called_norm_is_attention() -> None:
    prefix = "transformer.blocks.0.norm_attn_norm"
    found = places([f"{prefix}.attn.Wqkv.weight", f"{prefix}.norm_1.weight"], {"n_layers": 1})
    assert [place.role for place in found.values()] == ["attention", "norm"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"num_hidden_layers": 12}, 12),
        ({"n_layer": 12}, 12),
        ({"text_config": {"num_hidden_layers": 28}, "vision_config": {"depth": 32}}, 28),
        ({"text_config": None}, None),
        ({"num_hidden_layers": "many", "text_config": 5}, None),
    ],
)
def test_depth(config: dict[str, Any], expected: int | None) -> None:
    assert depth(config) == expected


def test_an_absurd_depth_costs_nothing() -> None:
    names = numbered("model.layers.{}.mlp.up_proj.weight", 2)
    found = places(names, {"num_hidden_layers": 10**15})
    assert [place.layer for place in found.values()] == [0, 1]


def test_without_a_depth_the_longest_stack_counts() -> None:
    names = [*numbered("a.layers.{}.mlp.w.weight", 3), *numbered("b.stage.{}.mlp.w.weight", 2)]
    found = places(names, {})
    assert found["a.layers.2.mlp.w.weight"] == Place(2, "mlp")
    assert found["b.stage.1.mlp.w.weight"] == Place(None, "other")


def test_the_first_number_of_a_name_is_its_block() -> None:
    assert renumber("model.layers.3.mlp.experts.0.up.weight", 12) == (
        "model.layers.12.mlp.experts.0.up.weight"
    )
    assert stack("model.layers.3.mlp.experts.0.up.weight") == "model.layers"
    assert stack("lm_head.weight") is None


@pytest.mark.parametrize(
    ("name", "role", "before"),
    [
        ("model.embed_tokens.weight", "embedding", True),
        ("transformer.word_embeddings_layernorm.weight", "norm", True),
        ("vision_tower.post_layernorm.weight", "other", True),
        ("model.norm.weight", "norm", False),
        ("lm_head.weight", "head", False),
    ],
)
def test_what_is_used_before_the_blocks(name: str, role: str, before: bool) -> None:
    assert precedes_blocks(name, Place(None, role)) is before
