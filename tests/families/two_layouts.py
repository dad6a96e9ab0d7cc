"""Tiny models of families whose names in files are not those in memory, saved in both layouts."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

_TEXT = {
    **{"vocab_size": 48, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
_ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
_SEES = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "image_size": 28, "patch_size": 14},
}
_QWEN_SEES = {
    **{"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4},
    **{"out_hidden_size": 32, "patch_size": 14},
}
_LATENT = {
    **{"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8},
    **{"v_head_dim": 8, "num_key_value_heads": 4},
}
_ROUTED = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}


class Family(NamedTuple):
    """The class of a model, and how its config is made tiny."""

    model: str
    config: str
    keys: Mapping[str, Any]


def _text(name: str, **keys: Any) -> Family:
    return Family(f"{name}ForCausalLM", f"{name}Config", {**_TEXT, **keys})


def _seeing(name: str, text: Mapping[str, Any], vision: Mapping[str, Any], **keys: Any) -> Family:
    configs = {"text_config": {**_TEXT, **text}, "vision_config": dict(vision), **keys}
    return Family(f"{name}ForConditionalGeneration", f"{name}Config", configs)


_CLIP = {"model_type": "clip_vision_model", **_SEES, "projection_dim": 32}
_SIGLIP = {"model_type": "siglip_vision_model", **_SEES}
_LLAMA = {"model_type": "llama"}

FAMILIES: Mapping[str, Family] = {
    "mixtral": _text("Mixtral", num_local_experts=4),
    "phimoe": _text("Phimoe", num_local_experts=4),
    "granitemoe": _text("GraniteMoe", num_local_experts=4),
    "qwen2_moe": _text("Qwen2Moe", **_ROUTED, shared_expert_intermediate_size=24),
    "qwen3_moe": _text("Qwen3Moe", **_ROUTED, head_dim=8),
    "olmoe": _text("Olmoe", num_experts=4, num_experts_per_tok=2),
    "gpt_neox": _text("GPTNeoX"),
    "jamba": _text(
        "Jamba",
        **{"num_experts": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
        **{"expert_layer_period": 2, "expert_layer_offset": 1, "mamba_dt_rank": 4},
    ),
    "deepseek_v3": _text(
        "DeepseekV3",
        **{**_LATENT, "n_routed_experts": 8, "n_group": 2, "topk_group": 1},
        **{"num_experts_per_tok": 2, "moe_intermediate_size": 24, "first_k_dense_replace": 1},
    ),
    "qwen2_vl": _seeing(
        "Qwen2VL",
        {"rope_parameters": _ROPE},
        {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 14},
    ),
    "qwen2_5_vl": _seeing("Qwen2_5_VL", {"rope_parameters": _ROPE}, _QWEN_SEES),
    "llava": _seeing("Llava", _LLAMA, _CLIP),
    "llava_next": _seeing("LlavaNext", _LLAMA, _CLIP),
    "paligemma": _seeing(
        "PaliGemma", {"model_type": "gemma", "head_dim": 8}, _SIGLIP, projection_dim=32
    ),
    "gemma3": _seeing("Gemma3", {"model_type": "gemma3_text", "head_dim": 8}, _SIGLIP),
    "mistral3": _seeing(
        "Mistral3", {"model_type": "mistral"}, {"model_type": "pixtral", **_SEES, "head_dim": 8}
    ),
    "ernie4_5_vl_moe": _seeing(
        "Ernie4_5_VLMoe",
        {
            **{"moe_num_experts": 4, "moe_intermediate_size": [24, 24], "moe_k": 2},
            "rope_parameters": _ROPE,
        },
        _QWEN_SEES,
    ),
}


def made(family: Family, seed: int) -> Any:
    """A model whose weights depend on seed and names alone."""
    import transformers

    config = getattr(transformers, family.config)(**family.keys)
    model = getattr(transformers, family.model)(config)
    for name, parameter in model.named_parameters():
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def as_files_have_it(model: Any, folder: Path) -> Path:
    """What ``save_pretrained`` writes."""
    model.save_pretrained(folder)
    return folder


def as_memory_has_it(model: Any, folder: Path) -> Path:
    """The tensors by their names in the modules, without those that are another one."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    state = {name: t for name, t in model.state_dict().items() if name not in tied}
    return saved(model, folder, state)


def saved(model: Any, folder: Path, state: Mapping[str, Tensor], kind: str = "") -> Path:
    """A folder with these tensors.

    Args:
        kind: the class that the config names; by default the model's.
    """
    folder.mkdir(parents=True)
    model.config.architectures = [kind or type(model).__name__]
    model.config.save_pretrained(folder)
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


LAYOUTS: Mapping[str, Callable[[Any, Path], Path]] = {
    "files": as_files_have_it,
    "memory": as_memory_has_it,
}
