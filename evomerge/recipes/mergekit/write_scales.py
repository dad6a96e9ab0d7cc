"""Scales of the residual stream as mergekit's `scale`, on the tensors that they fold into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.errors import ExportError
from evomerge.recipes import Recipe, Scalar
from evomerge.recipes._stack import slice_lengths
from evomerge.recipes.mergekit.spread import by_filter
from evomerge.recipes.mergekit.write_layout import Row
from evomerge.recipes.places import Placed, renumber

Folds = Mapping[str, tuple[float, float]]  # tensor name to the factor on it, and what is added


def by_factor(recipe: Recipe, places: Mapping[str, Placed], folds: Folds) -> Recipe:
    """The same weights without `scales`: `passthrough` with a scale for each tensor.

    Args:
        folds: of every tensor of the merged model, as the plan has them.

    Raises:
        ExportError: blocks that are merged, or tensors to which something is added.
    """
    if not recipe.scales:
        return recipe
    if recipe.operator != "passthrough":
        raise ExportError(
            f"scales: mergekit's {recipe.operator} has no factor on what it gives. Use passthrough "
            "where blocks come from one model each, or build the recipe."
        )
    shifted = [name for name, (_, offset) in folds.items() if offset]
    if shifted:
        raise ExportError(
            f"scales: {len(shifted)} norms, {shifted[0]} first, store their gain less one, to "
            "which mergekit can add nothing. Build the recipe."
        )
    lengths = slice_lengths(recipe.slices)
    sources = [next(iter(s)) for s, n in zip(recipe.slices, lengths, strict=True) for _ in range(n)]

    def scale(name: str, place: Placed, layer: int) -> Scalar:
        source = sources[layer] if sources else next(iter(recipe.sources))
        own = recipe.setting("scale", source, place.role, layer, name)
        return (1.0 if own is None else float(own)) * folds.get(name, (1.0, 0.0))[0]

    blocks: dict[str, Row] = {}
    outer: dict[str, Scalar] = {}
    layers = range(len(recipe.scales))
    for name, place in places.items():
        if place.layer is None:
            outer[name] = scale(name, place, 0)
        else:
            row = [scale(renumber(name, layer), place, layer) for layer in layers]
            blocks[renumber(name, 0)] = row[0] if all(v == row[0] for v in row) else row
    setting: Any
    try:
        setting = by_filter(blocks, outer)
    except ValueError as error:
        raise ExportError(f"scales: {error}, as mergekit needs. Build the recipe.") from None
    keys = {**recipe.model_dump(), "scales": (), "parameters": {"scale": setting}}
    return Recipe.model_validate(keys)
