"""Configs of any family of Transformers, shrunk until a model of it has a few thousand weights.

Every key is shrunk by what its name says it counts; `OF_FAMILY` has what no name tells.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

VOCABULARY = 40
LAYERS = 4
WIDTH = 32
TOWER_LAYERS = 2

# By what the name of a key counts, the most that it may be; the first that matches decides.
_TOKEN = re.compile(
    r"(token|eod|im_start|im_end|im_newline|user)_(id|index|ids)$|mask_index$|unk_index$"
)
_MOST = tuple(
    (re.compile(pattern), most)
    for pattern, most in (
        (r"type_vocab_size$", 4),
        (r"^(decoder_|src_|tgt_)?vocab_size(_per_layer_input)?$", VOCABULARY),
        (r"vocab", 24),
        (
            r"^(num_)?n?(_|text_|encoder_|decoder_|hidden_|t2u_|speech_|conf_|vision_)*layers?$",
            LAYERS,
        ),
        (r"^(num_blocks|depth|resampler_depth|aligner_num_add_layers)$", TOWER_LAYERS),
        (r"key_value_heads|kv_heads|kv_n_heads|query_groups|num_key_heads", 2),
        (r"heads?$", 4),
        (r"experts?_per_tok|top_?k$|moe_k$", 2),
        (r"expert_group|n_group$|topk_group$", 1),
        (r"n_groups$|ngroups$", 2),
        (r"(num|n|routed|local|shared)_experts$|zero_expert_num$|num_local_experts", 4),
        (r"rope_head_dim$", 4),
        (r"rank$|laurel_rank", 8),
        (r"head_?dim|dim_head|d_head|d_kv|head_size|qk_.*_dim|kv_channels|rotary_dim|scalar$", 8),
        (r"state_size|d_state", 8),
        (r"patch_size$", 4),
        (r"(image|img|crop)_size$", 16),
        (r"position|n_ctx|seq_len|max_length", 64),
        (r"sliding_window$|window_size$|attention_window$|sliding_window_size$", 4),
        (
            r"kv_shared|dense_replace|period|offset|pattern|interval|interleave|groups?$|step$",
            1 << 30,
        ),
        (r"intermediate|ffn|d_ff|dim_ff|dff|d_inner|mlp_dim|feed_forward", 48),
        (r"size|dim|embd|d_model|d_rel|width|channels?$|d_latents|features", WIDTH),
        (r"codebook|embeddings|centroids|buckets|hash|latents|frames|chunk|bins", 16),
    )
)


def tiny_config(family: str, **keys: Any) -> Any:
    """The config of a family, by `model_type`, shrunk.

    Args:
        keys: further keys of it; a dictionary changes keys of a part.

    Raises:
        Exception: any that the family's own class raises.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return _tiny(CONFIG_MAPPING[family], {**OF_FAMILY.get(family, {}), **keys})


def _tiny(kind: type[Any], keys: dict[str, Any]) -> Any:
    default = kind()
    chosen: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        value = field.default
        if field.name in (getattr(kind, "sub_configs", None) or {}):
            part = getattr(default, field.name, None)
            if part is not None:
                of_part = keys.get(field.name, {})
                tower = {} if field.name in _LANGUAGE else _shallow(part)
                of_part = {**tower, **OF_FAMILY.get(part.model_type, {}), **of_part}
                chosen[field.name] = _tiny(type(part), of_part).to_dict()
        elif (small := _shrunk(field.name, value)) != value:
            chosen[field.name] = small
    parts = chosen.keys() & (getattr(kind, "sub_configs", None) or {}).keys()
    return kind(**{**chosen, **{key: value for key, value in keys.items() if key not in parts}})


def _shallow(part: Any) -> dict[str, int]:
    """Keys by which a tower is not as deep as the language model."""
    names = [field.name for field in dataclasses.fields(part)]
    return {n: TOWER_LAYERS for n in names if n in ("num_hidden_layers", "depth", "num_layers")}


def _shrunk(name: str, value: Any) -> Any:
    if isinstance(value, list) and _TOKEN.search(name):
        return [_shrunk(name, item) for item in value][:1]
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if _TOKEN.search(name):
        # away from the tokens of any text, and each its own
        special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        return special.get(name, VOCABULARY - 1 - sum(map(ord, name)) % 8)
    most = next((most for pattern, most in _MOST if pattern.search(name)), 1 << 30)
    return min(value, most)


_MROPE = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
}
_HEAD = {"head_dim": 8}

# Parts of a config that are as deep as the whole.
_LANGUAGE = ("text_config", "llm_config", "language_config", "encoder", "decoder", "text_encoder")

OF_FAMILY: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {"num_hidden_layers": 8},
    **dict.fromkeys(
        (
            "cosmos3_edge_text",
            "qwen2_vl_text",
            "qwen2_5_vl_text",
            "glm4v_text",
            "glm4v_moe_text",
            "glm_ocr_text",
            "paddleocr_vl_text",
            "qwen2_5_omni_text",
            "glmga_text",
            "glm46v_text",
        ),
        _MROPE,
    ),
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "esm": {"vocab_size": VOCABULARY, "mask_token_id": 3, "pad_token_id": 0},
    "gemma3n_text": {"num_hidden_layers": 10, "num_kv_shared_layers": 5},
    "glm5_next_text": {"num_key_value_heads": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    **dict.fromkeys(("hunyuan_v1_dense", "hunyuan_v1_moe", "hunyuan_vl_text", "ministral"), _HEAD),
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "mobilebert": {"embedding_size": 16},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp_text": {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8},
    "reformer": {"is_decoder": True},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "n_mamba_heads": 4},
}
