"""Settings that only the code which runs the blocks applies, by their numbers.

Nothing of it shows in the blocks that Transformers builds. `tests/families/test_code.py` finds such
code in every family that it ships; what is not here is known to follow the blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from evomerge.weights.architecture.names import language_parts

Config = Mapping[str, Any]
Setting = Callable[[Config, int, int], Any]


def by_number(config: Config, number: int, layers: int) -> Iterator[tuple[str, Any]]:
    """The settings that code applies to a block of this number, and what they make of it.

    Args:
        config: of the model, its language part included.
        layers: blocks of the model.
    """
    for part in (config, *language_parts(config)):
        for key, setting in _SETTINGS.get(str(part.get("model_type")), {}).items():
            yield key, setting(config, number, layers)


def _number(config: Config, number: int, layers: int) -> Any:
    return number


def _if_set(key: str) -> dict[str, Setting]:
    return {key: lambda config, number, layers: number if config.get(key) else None}


def _first(key: str) -> dict[str, Setting]:
    """A layer behind the first block, where there is one."""
    return {key: lambda config, number, layers: bool(config.get(key)) and number == 0}


def _images(config: Config, number: int, layers: int) -> Any:
    """The first blocks have features of images added to what they write."""
    vision = config.get("vision_config")
    count = len((vision or {}).get("deepstack_visual_indexes") or ())
    return number if number < count else None


def _last(key: str) -> dict[str, Setting]:
    """Queries join the tokens in front of the last blocks."""

    def setting(config: Config, number: int, layers: int) -> Any:
        return layers - number if layers - number <= config.get(key, layers) else None

    return {key: setting}


_DEEP = ("cohere_compass_text", "qwen3_omni_moe_text", "qwen3_vl_moe_text", "qwen3_vl_text")
# Decoders for detection refine boxes from block to block, and leave out the last one.
_REFINING = (
    *("conditional_detr", "d_fine", "dab-detr", "deformable_detr", "deimv2", "detr"),
    *("grounding-dino", "lw_detr", "mm-grounding-dino", "omdet-turbo", "pp_doclayout_v2"),
    *("pp_doclayout_v3", "rf_detr", "rt_detr", "rt_detr_v2", "table-transformer", "mask2former"),
    *("oneformer", "yolos", "sam3", "sam3_lite_text", "seggpt"),
)

# By family and key: what the code makes of a block's number.
_SETTINGS: Mapping[str, Mapping[str, Setting]] = {
    **dict.fromkeys(("deberta-v2", "sew-d"), _first("conv_kernel_size")),
    **{family: {"deepstack": _images} for family in _DEEP},
    **dict.fromkeys(("eomt", "eomt_dinov3"), _last("num_blocks")),
    **{family: {"decoder_layers": _number} for family in _REFINING},
    "granite4_vision_text": {"deepstack_layer_map": _number},
    "clipseg": _if_set("conditional_layer"),
    "idefics": {"cross_layer_interval": _number},
    "imagegpt": _if_set("scale_attn_by_inverse_layer_idx"),
    "moonshine_streaming": {"sliding_windows": _number},
    "mvp": _if_set("use_prompt"),
}
