"""The config of a stack: settings that belong to a block go where the block goes.

No family is known here. Where a config leaves out what its blocks are, the list that Transformers
makes up of their numbers is written down, so that it can be moved.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from evomerge.weights.architecture.empty import read_config
from evomerge.weights.architecture.names import language_parts

# Keys of the number of blocks, of all or of one half of an encoder with a decoder.
_DEPTH = re.compile(r"(num_)?((hidden|encoder|decoder)_)?layers|n_layers?")
# Keys of lists, or of texts in letters, with one value a block.
_PER_BLOCK = re.compile(r"layer|block|pattern|heads|intermediate|experts|stage")
# Keys of lists of the numbers of some blocks.
_NUMBERS = re.compile(r"_(layers|idxs?|ids|indices|indexes)$")
_TOWER = re.compile(r"vision|visual|audio|speech|image|feature")
# Lists that may be shorter than the model: they begin again where they end.
_CYCLES = ("block_types",)


class Described(NamedTuple):
    """A model's config.json, and how many blocks the model has."""

    config: Mapping[str, Any]
    layers: int


Origins = Sequence[tuple[Described, int]]


def models_of(origins: Origins) -> dict[int, Described]:
    """The models of a stack, each once, by the identity of their configs."""
    return {id(model.config): model for model, _ in origins}


def spelled_out(model: Described) -> dict[str, Any]:
    """A copy of a config, and of its language part, that lists the kind of each block.

    A config that Transformers does not read stays as it is.
    """
    parts = language_parts(model.config)
    whole = {
        key: dict(value) if any(value is part for part in parts) else value
        for key, value in model.config.items()
    }
    read = read_config(model.config) or {}
    for part, made in zip(_parts(whole), _parts(read), strict=False):
        for key, value in made.items():
            if part.get(key) is None and _is_per_block(key, value, model.layers):
                part[key] = value
            elif key in _CYCLES and isinstance(value, list) and value:
                part[key] = [value[block % len(value)] for block in range(model.layers)]
    return whole


def stack_config(base: Described, origins: Origins) -> dict[str, Any]:
    """The config of a stack of blocks: the base's, its lists from the models that gave the blocks.

    Args:
        origins: for each block its model, and its number there.
    """
    spelled = {key: spelled_out(model) for key, model in models_of(origins).items()}
    stacked = [(spelled[id(model.config)], number) for model, number in origins]
    whole = spelled_out(base)
    for part in _parts(whole):
        part |= dict(_moved(part, base.layers, stacked))
    return whole


def _moved(
    part: Mapping[str, Any], before: int, origins: Sequence[tuple[dict[str, Any], int]]
) -> Iterator[tuple[str, Any]]:
    """The keys of a part that change with the blocks."""
    for key, value in part.items():
        theirs = [(_value_of(config, key, value), own) for config, own in origins]
        if value == before and type(value) is int and _DEPTH.fullmatch(key):
            yield key, len(origins)
        elif _is_per_block(key, value, before):
            items = [of[own] if own < len(of) else value[-1] for of, own in theirs]
            yield key, "".join(items) if isinstance(value, str) else items
        elif _is_list_of_blocks(key, value, before):
            yield key, [number for number, (of, own) in enumerate(theirs) if own in of]
        elif _is_keyed_by_blocks(key, value):
            found = enumerate((of, str(own)) for of, own in theirs)
            yield key, {str(number): of[own] for number, (of, own) in found if own in of}


def _is_per_block(key: str, value: Any, layers: int) -> bool:
    if value == list(range(layers)) and layers > 2 and _NUMBERS.search(key):
        return False  # the numbers of all blocks
    return isinstance(value, list | str) and len(value) == layers and bool(_PER_BLOCK.search(key))


def _is_list_of_blocks(key: str, value: Any, layers: int) -> bool:
    return (
        isinstance(value, list)
        and all(type(item) is int and 0 <= item < layers for item in value)
        and value == sorted(set(value))
        and _NUMBERS.search(key) is not None
        and not _TOWER.search(key)
    )


def _is_keyed_by_blocks(key: str, value: Any) -> bool:
    named = isinstance(value, Mapping) and _PER_BLOCK.search(key) is not None
    return named and bool(value) and all(name.isdecimal() for name in value)


def _value_of(config: dict[str, Any], key: str, default: Any) -> Any:
    """What a config, or its language part, has under a key; of the type that the base has."""
    values = [part[key] for part in _parts(config) if key in part]
    return next((value for value in values if isinstance(value, type(default))), default)


def _parts(config: dict[str, Any]) -> list[dict[str, Any]]:
    return [config, *language_parts(config)]
