"""Settings by which Transformers builds a block from its number: such blocks may not move.

Where a config can have a list in place of such a setting, `spelled_out` adds it, so that blocks may
move. Families and defaults are those of Transformers 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from evomerge.weights.names import depth, language_parts

_SLIDING, _FULL = "sliding_attention", "full_attention"
Config = Mapping[str, Any]


class Block(NamedTuple):
    """A block's number in its model, and how many blocks that has."""

    number: int
    depth: int


Trait = Callable[[Config, Block], Any]


def displaced(moves: Iterable[tuple[Config, int]]) -> Iterator[str]:
    """A sentence for each setting that would make a moved block another one.

    Args:
        moves: for each block of a stack, in order, the config of the model that it comes from,
            `spelled_out`, and its number there.
    """
    stack = list(moves)
    reported: set[tuple[str, str]] = set()
    for number, (config, own) in enumerate(stack):
        for part in language_parts(config) or [dict(config)]:
            family = str(part.get("model_type"))
            before = Block(own, depth(part) or depth(config) or 0)
            after = Block(number, len(stack))
            for key, trait in _traits(family, part):
                if trait(part, before) != trait(part, after) and (family, key) not in reported:
                    reported.add((family, key))
                    yield (
                        f"slices: block {own} would be another as block {number} of "
                        f"{len(stack)}: of {family}, {key} goes by the number of a block, and the "
                        "config has no list of it. Leave the blocks where they are."
                    )


def _traits(family: str, part: Config) -> Iterator[tuple[str, Trait]]:
    yield from _BY_NUMBER.get(family, {}).items()
    for key in _LISTS.get(family, ()):
        if not isinstance(part.get(key), list):
            yield key, _itself


def _itself(config: Config, block: Block) -> Any:
    """A trait by which no two blocks are alike, nor blocks of models that differ in depth."""
    return block


def _if_set(key: str, trait: Trait) -> dict[str, Trait]:
    return {key: lambda config, block: trait(config, block) if config.get(key) else None}


def _from(key: str) -> dict[str, Trait]:
    """A trait that differs between the blocks before and after the number under a key."""
    return {
        key: lambda config, block: block if config.get(key) is None else block.number >= config[key]
    }


def _every(key: str) -> dict[str, Trait]:
    return {key: lambda config, block: (block.number + 1) % (config.get(key) or 1) == 0}


def _periods(*names: str) -> dict[str, Trait]:
    def trait(config: Config, block: Block) -> Any:
        settings: list[Any] = [config.get(f"{n}_{k}") for n in names for k in ("period", "offset")]
        if None in settings:
            return block
        pairs = zip(settings[::2], settings[1::2], strict=True)
        return [block.number % period == offset for period, offset in pairs]

    return {f"{names[0]}_period": trait}


def _number(config: Config, block: Block) -> Any:
    return block.number


def _first(config: Config, block: Block) -> Any:
    return block.number == 0


_DENSE_FIRST = ("deepseek_v2", "deepseek_v3", "axk1", "dots1", "glm4_moe", "glm4v_moe_text")
_SHARED_KEYS = ("gemma3n_text", "gemma4_text", "gemma4_unified_text")
_INDEXED = ("deepseek_v32", "glm_moe_dsa", "glm5_next", "hy_v4")

# By family and key: what the setting makes of a block.
_BY_NUMBER: Mapping[str, Mapping[str, Trait]] = {
    "gpt2": _if_set("scale_attn_by_inverse_layer_idx", _number),
    "diffllama": {"lambda_init": _number},
    "gpt_neo": {"attention_types": _itself},
    **dict.fromkeys(_DENSE_FIRST, _from("first_k_dense_replace")),
    **dict.fromkeys(("afmoe", "lfm2_moe"), _from("num_dense_layers")),
    **dict.fromkeys(("qwen2_moe", "qwen3_moe", "qwen3_next"), _every("decoder_sparse_step")),
    **dict.fromkeys(_SHARED_KEYS, _if_set("num_kv_shared_layers", _itself)),
    **{family: {"indexer_types": _itself} for family in _INDEXED},
    "ernie4_5_moe": {"moe_layer_interval": _itself},
    "jamba": _periods("attn_layer", "expert_layer"),
    "modernbert-decoder": {"attn_norm": _first},
    "nemotron_h": _if_set("hybrid_override_pattern", _itself),
    "zaya": {"use_eda": _first},
}

# By family: lists that Transformers makes up from block numbers if the config has none.
_LISTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("afmoe", "cwm", "exaone4", "granite_swa", "granitemoe_swa"), ("layer_types",)),
    **dict.fromkeys(("gemma3n_text", "gemma4_text", "gemma4_unified_text"), ("layer_types",)),
    **dict.fromkeys(("inkling_text", "lfm2", "minimax", "modernbert-decoder"), ("layer_types",)),
    **dict.fromkeys(("olmo_hybrid", "qwen3_5_text", "qwen3_5_moe_text"), ("layer_types",)),
    **dict.fromkeys(("qwen3_next", "qwen4_exp_text", "nemotron_h"), ("layer_types",)),
    **dict.fromkeys(("axk2", "glm4_moe_lite", "hy_v3", "laguna"), ("mlp_layer_types",)),
    **dict.fromkeys(
        ("cohere2_moe", "deepseek_v4", "exaone_moe", "kimi_linear", "mimo_v2_flash"),
        ("layer_types", "mlp_layer_types"),
    ),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa", "hy_v4"), ("mlp_layer_types",)),
    "llama4_text": ("moe_layers", "no_rope_layers", "layer_types"),
    "zamba": ("layers_block_type",),
}


def spelled_out(config: Config) -> dict[str, Any]:
    """A copy of a config, and of its language part, that lists the kind of each block.

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


def _all_but_every(default: int) -> Callable[[Config], Callable[[int], bool]]:
    """All but every n-th block."""
    return lambda config: (
        lambda layer: (layer + 1) % config.get("sliding_window_pattern", default) != 0
    )


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
    **dict.fromkeys(
        ("gemma2", "gpt_oss", "vaultgemma"), lambda config: lambda layer: layer % 2 == 0
    ),
    **dict.fromkeys(("gemma3", "gemma3_text"), _all_but_every(6)),
    **dict.fromkeys(("cohere2", "exaone4"), _all_but_every(4)),
    "olmo3": lambda config: lambda layer: (layer + 1) % 4 != 0,
    **dict.fromkeys(("qwen2", "qwen3"), _from_some_block),
    "qwen2_moe": _up_to_some_block,
    "smollm3": _without_rope,
}
