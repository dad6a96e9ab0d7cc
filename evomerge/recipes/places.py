"""The tensors of a model by block and role, and parts of names that select some of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from evomerge.recipes.recipe import Recipe

_NUMBER = re.compile(r"\.(\d+)\.")

# What a filter selects in the tensor names of Llama and its many relatives. ``final_norm`` is the
# one after the blocks: a role for mergekit's filters, though not for ours.
FILTERS: Mapping[str, frozenset[str]] = {
    "self_attn": frozenset({"attention"}),
    "attn": frozenset({"attention"}),
    "mlp": frozenset({"mlp"}),
    "block_sparse_moe": frozenset({"mlp"}),
    "embed_tokens": frozenset({"embedding"}),
    "wte": frozenset({"embedding"}),
    "lm_head": frozenset({"head"}),
    "norm": frozenset({"norm", "final_norm"}),
    "layernorm": frozenset({"norm"}),
    "model.norm": frozenset({"final_norm"}),
}


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
    """The tensors of a model; of a recipe those of its base, whose blocks are of one kind."""
    return places_of(model) if isinstance(model, str) else places_of_model(model.base, places_of)


def layers_of_model(model: str | Recipe, layers_of: Callable[[str], int]) -> int:
    """The number of blocks of a model, or of the one that a recipe makes."""
    if isinstance(model, str):
        return layers_of(model)
    return model.depth or layers_of_model(model.base, layers_of)


def precedes_blocks(name: str, place: Placed) -> bool:
    """Whether a tensor outside the blocks is used before them; as in ``weights.names``."""
    if place.role == "norm":
        return "embed" in name.lower()
    return place.role != "head"


def at_block(name: str, layer: int) -> str:
    """The same tensor's name in another block."""
    return _NUMBER.sub(f".{layer}.", name, count=1)


def pattern(name: str) -> str:
    """``model.layers.3.mlp.up.weight`` -> ``model.layers.#.mlp.up.weight``."""
    return ".".join("#" if part.isdigit() else part for part in name.split("."))


def cover(names: Iterable[str], others: Iterable[str]) -> list[str] | None:
    """A few substrings that together hit every name and none of the others, or None.

    Those of `FILTERS` come first, so that they can be read back.
    """
    left, others = {pattern(name) for name in names}, {pattern(name) for name in others}
    found = []
    for candidate in [*FILTERS, *_parts(sorted(left))]:
        hits = {name for name in left if candidate in name}
        if hits and not any(candidate in other for other in others):
            found.append(candidate)
            left -= hits
        if not left:
            return found
    return None


def _parts(names: Iterable[str]) -> list[str]:
    """Runs of whole parts of the names, the shortest first."""
    runs: dict[str, int] = {}
    for name in names:
        for stretch in name.split("#"):
            parts = stretch.strip(".").split(".")
            for start in range(len(parts)):
                for end in range(start + 1, len(parts) + 1):
                    runs[".".join(parts[start:end])] = end - start
    return sorted(filter(None, runs), key=lambda run: (runs[run], len(run), run))
