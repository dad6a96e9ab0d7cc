"""Where each tensor of a model stands: its block and its role."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Protocol

from evomerge.recipes.recipe import Recipe

_NUMBER = re.compile(r"\.(\d+)\.")


class Placed(Protocol):
    """Where a tensor stands; see ``evomerge.weights.names.Place``."""

    @property
    def layer(self) -> int | None:
        """Index of its block, None outside the blocks."""

    @property
    def role(self) -> str:
        """One of `ROLES`."""


Places = Mapping[str, Placed]
PlacesOf = Callable[[str], Places]


def places_of_model(model: str | Recipe, places_of: PlacesOf) -> Places:
    """The places of a model; those of a recipe are its base's, as its blocks are of one kind."""
    return places_of(model) if isinstance(model, str) else places_of_model(model.base, places_of)


def layers_of_model(model: str | Recipe, layers_of: Callable[[str], int]) -> int:
    """The number of blocks of a model, or of the model that a recipe makes."""
    if isinstance(model, str):
        return layers_of(model)
    return model.depth or layers_of_model(model.base, layers_of)


def precedes_blocks(name: str, place: Placed) -> bool:
    """Whether a tensor outside the blocks is used before them: embeddings and towers are."""
    if place.role == "norm":
        return "embed" in name.lower()  # BLOOM's word_embeddings_layernorm
    return place.role != "head"


def renumber(name: str, layer: int) -> str:
    """The name that a tensor of a block has in block ``layer``."""
    return _NUMBER.sub(f".{layer}.", name, count=1)
