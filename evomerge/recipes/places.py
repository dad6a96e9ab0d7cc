"""Where each tensor of a model stands: its block and its role."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Protocol

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


def precedes_blocks(name: str, place: Placed) -> bool:
    """Whether a tensor outside the blocks is used before them: embeddings and towers are."""
    if place.role == "norm":
        return "embed" in name.lower()  # BLOOM's word_embeddings_layernorm
    return place.role != "head"


def renumber(name: str, layer: int) -> str:
    """The name that a tensor of a block has in block ``layer``."""
    return _NUMBER.sub(f".{layer}.", name, count=1)
