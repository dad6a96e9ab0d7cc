"""Lists, one value a block, in place of what a config leaves to block numbers.

With them blocks may move. The defaults are those of Transformers 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from evomerge.weights.names import depth, language_parts

_SLIDING, _FULL = "sliding_attention", "full_attention"
Config = Mapping[str, Any]


def spelled_out(config: Config) -> dict[str, Any]:
    """The same config, and its language part, with a list of what kind each block is.

    Lists are added for families whose blocks differ by number, if the config has none.
    """
    parts = {id(part): _spelled_out(part, config) for part in language_parts(config)}
    whole = {key: parts.get(id(value), value) for key, value in config.items()}
    return whole if parts else _spelled_out(whole, config)


def _spelled_out(part: Config, config: Config) -> dict[str, Any]:
    kind, layers = str(part.get("model_type")), depth(part) or depth(config) or 0
    filled = dict(part)
    if kind == "smollm3" and part.get("no_rope_layers") is None:
        every = part.get("no_rope_layer_interval", 4)
        filled["no_rope_layers"] = [int((layer + 1) % every != 0) for layer in range(layers)]
    slides = _SLIDES.get(kind)
    if kind == "exaone4" and not isinstance(part.get("sliding_window_pattern", 4), int):
        slides = None  # "LLLG", which Transformers does not read
    if slides is not None and part.get("layer_types") is None:
        slide = slides(filled)
        filled["layer_types"] = [_SLIDING if slide(layer) else _FULL for layer in range(layers)]
    return filled


def _every(default: int) -> Callable[[Config], Callable[[int], bool]]:
    """All but every n-th block."""
    return lambda config: (
        lambda layer: (layer + 1) % config.get("sliding_window_pattern", default) != 0
    )


def _every_second(config: Config) -> Callable[[int], bool]:
    return lambda layer: layer % 2 == 0


def _from_some_block(config: Config) -> Callable[[int], bool]:
    window = config.get("sliding_window", 4096)
    slides = config.get("use_sliding_window", False) and window is not None
    return lambda layer: slides and layer >= config.get("max_window_layers", 28)


def _up_to_some_block(config: Config) -> Callable[[int], bool]:
    slides = config.get("use_sliding_window", False)
    return lambda layer: slides and layer % 2 == 0 and layer < config.get("max_window_layers", 28)


def _without_rope(config: Config) -> Callable[[int], bool]:
    slides = config.get("use_sliding_window", False) and config.get("sliding_window") is not None
    return lambda layer: slides and not config["no_rope_layers"][layer]


_SLIDES: Mapping[str, Callable[[Config], Callable[[int], bool]]] = {
    **dict.fromkeys(("gemma2", "gpt_oss", "vaultgemma"), _every_second),
    **dict.fromkeys(("gemma3", "gemma3_text"), _every(6)),
    **dict.fromkeys(("cohere2", "exaone4"), _every(4)),
    "olmo3": lambda config: lambda layer: (layer + 1) % 4 != 0,
    **dict.fromkeys(("qwen2", "qwen3"), _from_some_block),
    "qwen2_moe": _up_to_some_block,
    "smollm3": _without_rope,
}
