"""The config of a stack: settings that belong to a block go where the block goes.

No family is known here. Where a config leaves out what its blocks are, the list that Transformers
makes up of their numbers is written down, so that it can be moved. A list whose name does not tell
is one of the blocks if Transformers builds no deeper model unless it grows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import lru_cache
from typing import Any, NamedTuple

from evomerge.weights.architecture.empty import empty_model, read_config
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
_MOST_BLOCKS = 1 << 16


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
    return _spelled_out(model, _growing(model))


def stack_config(base: Described, origins: Origins) -> dict[str, Any]:
    """The config of a stack of blocks: the base's, its lists from the models that gave the blocks.

    Args:
        origins: for each block its model, and its number there.
    """
    return _stacked(base, origins, _growing(base))


def _spelled_out(model: Described, growing: Set[str]) -> dict[str, Any]:
    parts = language_parts(model.config)
    whole = {
        key: dict(value) if any(value is part for part in parts) else value
        for key, value in model.config.items()
    }
    read = read_config(model.config) or {}
    for part, made in zip(_parts(whole), _parts(read), strict=False):
        for key, value in made.items():
            told = key in growing or _is_per_block(key, value, model.layers)
            if part.get(key) is None and told:
                part[key] = value
            elif key in _CYCLES and isinstance(value, list) and value:
                part[key] = [value[block % len(value)] for block in range(model.layers)]
    return whole


def _stacked(base: Described, origins: Origins, growing: Set[str]) -> dict[str, Any]:
    spelled = {key: _spelled_out(model, growing) for key, model in models_of(origins).items()}
    stacked = [(spelled[id(model.config)], number) for model, number in origins]
    whole = _spelled_out(base, growing)
    for part in _parts(whole):
        part |= dict(_moved(part, base.layers, stacked, growing))
    return whole


def _growing(model: Described) -> frozenset[str]:
    """Keys of lists with one item a block, which only building the model tells."""
    return _growing_of(json.dumps(model.config, sort_keys=True, default=str), model.layers)


@lru_cache(maxsize=64)
def _growing_of(key: str, layers: int) -> frozenset[str]:
    model = Described(json.loads(key), layers)
    parts = [*_parts(dict(model.config)), *_parts(read_config(model.config) or {})]
    unknown = frozenset(
        key
        for part in parts
        for key, value in part.items()
        if not isinstance(value, str) and len(_items(value)) == layers
        if not _is_per_block(key, value, layers) and not _is_list_of_blocks(key, value, layers)
    )
    if not unknown or not _grows(model, unknown):
        return frozenset()
    return frozenset(key for key in unknown if not _grows(model, unknown - {key}))


def _grows(model: Described, growing: Set[str]) -> bool:
    """Whether Transformers builds a model of one block more, if lists under these keys grow."""
    blocks = [(model, block) for block in (*range(model.layers), model.layers - 1)]
    try:
        empty_model(_stacked(model, blocks, growing))
    except Exception:  # whatever a list that is too short makes it raise
        return False
    return True


def _moved(
    part: Mapping[str, Any],
    before: int,
    origins: Sequence[tuple[dict[str, Any], int]],
    growing: Set[str],
) -> Iterator[tuple[str, Any]]:
    """The keys of a part that change with the blocks."""
    for key, value in part.items():
        theirs = [(_value_of(config, key, value), own) for config, own in origins]
        if value == before and type(value) is int and _DEPTH.fullmatch(key):
            yield key, len(origins)
        elif _is_per_block(key, value, before) or (key in growing and len(_items(value)) == before):
            lists = [(_items(of), own) for of, own in theirs]
            items = [of[own] if own < len(of) else _items(value)[-1] for of, own in lists]
            yield key, _written_like(value, items)
        elif _is_list_of_blocks(key, value, before):
            yield key, [number for number, (of, own) in enumerate(theirs) if own in of]
        elif _is_keyed_by_blocks(key, value):
            found = enumerate((of, str(own)) for of, own in theirs)
            yield key, {str(number): of[own] for number, (of, own) in found if own in of}


def _items(value: Any) -> Sequence[Any]:
    """A list's items; ``[[["global", "local"], 12]]`` says that its two come twelve times."""
    if _is_repeated(value):
        return [item for items, times in value for _ in range(times) for item in items]
    return value if isinstance(value, list | str) else ()


def _is_repeated(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    if not all(isinstance(pair, list) and [*map(type, pair)] == [list, int] for pair in value):
        return False
    length: int = sum(len(items) * max(times, 0) for items, times in value)
    return length <= _MOST_BLOCKS


def _written_like(value: Any, items: Sequence[Any]) -> Any:
    if isinstance(value, str):
        return "".join(items)
    return [[[*items], 1]] if _is_repeated(value) else items


def _is_per_block(key: str, value: Any, layers: int) -> bool:
    if value == list(range(layers)) and layers > 2 and _NUMBERS.search(key):
        return False  # the numbers of all blocks
    if len(_items(value)) != layers:
        return False
    return _is_repeated(value) or _PER_BLOCK.search(key) is not None


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
