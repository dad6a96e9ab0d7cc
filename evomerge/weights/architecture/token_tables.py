"""Which tensors have a row for every token, and which keys of a config count them.

That is not guessed from names: a model is built without weights as its config says, and once more
with another number of tokens; what has another length is a token table.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from evomerge.weights.architecture.empty import empty_model
from evomerge.weights.architecture.names import language_parts

Shape = tuple[int, ...]
Axes = Mapping[str, int]
_VOCABULARY = re.compile(r"vocab")
_TOWER = re.compile(r"vision|audio|speech|image|codec|vocoder")


def resized(config: Mapping[str, Any], before: int, after: int) -> dict[str, Any]:
    """A copy of a config with another number of tokens under every key that counts them.

    Args:
        before, after: rows of the embedding.
    """
    return {
        key: resized(value, before, after)
        if isinstance(value, Mapping) and not _TOWER.search(key)
        else after
        if type(value) is int and value == before and _VOCABULARY.search(key)
        else value
        for key, value in config.items()
    }


def token_counts(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The keys of the language model's config that count its tokens, and what they say."""
    for part in (config, *language_parts(config)):
        for key, value in part.items():
            if key.startswith("vocab_size") and type(value) is int:
                yield key, value


def token_tables(
    config: Mapping[str, Any], shapes: Mapping[str, Shape], rows: int
) -> tuple[Axes, frozenset[str]]:
    """By name the axis of tokens of those tensors that have one, and all of which this is known.

    Args:
        config: of the model; both are empty where Transformers does not build it.
        shapes: of its tensors, as they are stored.
        rows: of its embedding.
    """
    names = json.dumps(sorted(shapes.items()))
    return _token_tables(json.dumps(config, sort_keys=True, default=str), names, rows)


@lru_cache(maxsize=16)
def _token_tables(key: str, names: str, rows: int) -> tuple[Axes, frozenset[str]]:
    from evomerge.weights.architecture.arrays import leaves
    from evomerge.weights.architecture.loading import loaded

    config = json.loads(key)
    other = resized(config, rows, 2 * rows)
    if other == config:
        return {}, frozenset()
    shapes = {name: tuple(shape) for name, shape in json.loads(names)}
    try:
        model = empty_model(config)
        larger = {name: tuple(t.shape) for name, t in empty_model(other).state_dict().items()}
        arrays = loaded(model, shapes).arrays
    except Exception:  # whatever makes Transformers not build it
        return {}, frozenset()
    found: dict[str, int] = {}
    known: set[str] = set()
    for name, array in arrays.items():
        stored = [leaf.name for leaf in leaves(array)]
        known.update(stored)
        if len(stored) > 1 or shapes[stored[0]] != array.shape:
            continue
        for axis, length in enumerate(array.shape[:2]):
            # and is not as long by chance
            if length == rows and larger.get(name) == with_rows(array.shape, axis, 2 * rows):
                found[stored[0]] = axis
    return found, frozenset(known)


def with_rows(shape: Shape, axis: int, rows: int) -> Shape:
    """The shape of a token table with another number of tokens along their axis."""
    return (*shape[:axis], rows, *shape[axis + 1 :])
