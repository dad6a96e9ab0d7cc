"""Where each tensor of a model stands: its block and its role."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

_NUMBER = re.compile(r"(?<=\.)[0-9]{1,9}(?=\.)")


class Place(NamedTuple):
    """Where a tensor is: the index of its block, None outside the blocks, and its role."""

    layer: int | None
    role: str


Places = Mapping[str, Place]
PlacesOf = Callable[[str], Places]


def precedes_blocks(name: str, place: Place) -> bool:
    """Whether a tensor outside the blocks is used before them: embeddings and towers are."""
    if place.role == "norm":
        return "embed" in name.lower()  # BLOOM's word_embeddings_layernorm
    return place.role != "head"


def renumber(name: str, layer: int) -> str:
    """The name that a tensor of a block has in block ``layer``."""
    return _NUMBER.sub(str(layer), name, count=1)


class Numbered(NamedTuple):
    """A tensor's name around its first number: in ``layers.3.mlp.experts.0.up`` that is 3."""

    stack: str
    number: int
    within: str


def numbered(name: str) -> Numbered | None:
    """(``model.layers``, 3, ``mlp.up.weight``) of ``model.layers.3.mlp.up.weight``.

    None of a name without a number.
    """
    match = _NUMBER.search(name)
    if match is None:
        return None
    return Numbered(name[: match.start() - 1], int(match[0]), name[match.end() + 1 :])


def pattern(name: str) -> str:
    """``model.layers.*.mlp.up.weight`` of ``model.layers.3.mlp.up.weight``."""
    return _NUMBER.sub("*", name)


def same_place(name: str, other: str) -> str:
    """A name with the numbers of another one, which has as many."""
    numbers = iter(_NUMBER.findall(other))
    return _NUMBER.sub(lambda match: next(numbers, match[0]), name)
