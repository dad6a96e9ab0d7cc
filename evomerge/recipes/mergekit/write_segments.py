"""Segments that begin and end where tensors do, as weights by tensor name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from evomerge.errors import ExportError
from evomerge.recipes import Recipe, Segments
from evomerge.recipes.layout import Layout, lay_out
from evomerge.recipes.places import Placed


def by_tensor(
    recipe: Recipe, places: Mapping[str, Placed], shapes: Mapping[str, tuple[int, ...]]
) -> Recipe:
    """The recipe of another operator that merges to the same weights.

    Args:
        recipe: of the operator ``segments``.
        places, shapes: of every tensor of the merged model.

    Raises:
        ExportError: a segment begins inside a tensor, or weights are mutated.
    """
    if recipe.lineage is not None:
        raise ExportError(
            "lineage: mergekit knows no random changes of weights. Build the checkpoint instead: "
            "evomerge build."
        )
    segments = recipe.segments
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    if segments is None:
        return _with(recipe, {"weight": 1 / len(recipe.sources)})
    layout = lay_out(places, sizes, segments.chromosomes)
    if cut := _cut(layout, segments):
        raise ExportError(
            f"segments: {len(cut)} tensors are cut in pieces, {cut[0]} first, and mergekit knows "
            "whole ones alone. Search with align: tensor."
        )
    rows = {name: pieces[0][1] for name, pieces in layout.pieces(segments).items()}
    weight = {
        source: _filters({name: row[number] for name, row in rows.items()})
        for number, source in enumerate(recipe.sources)
    }
    return _with(recipe, {"weight": weight})


def _with(recipe: Recipe, parameters: dict[str, Any]) -> Recipe:
    on_deltas = recipe.parameters.get("space") == "task_vector"
    # not dict(recipe), which has the digest too once somebody asked for it
    content = {name: getattr(recipe, name) for name in Recipe.model_fields} | {
        "operator": "task_arithmetic" if on_deltas else "linear",
        "parameters": {**parameters, "normalize": False},
        "segments": None,
    }
    return Recipe.model_validate(content)


def _cut(layout: Layout, segments: Segments) -> list[str]:
    """The tensors in which a segment begins."""
    inner = sorted(set(segments.bounds) - set(layout.starts))
    spans = zip(layout.names, pairwise(layout.starts), strict=True)
    return [name for name, (start, stop) in spans if any(start < b < stop for b in inner)]


def _filters(values: Mapping[str, float]) -> Any:
    """Lines for all tensors but those with the most common value.

    A filter selects every name that it is a part of, so that longer names come first.
    """
    rest = Counter(values.values()).most_common(1)[0][0]
    chosen = {name for name, value in values.items() if value != rest}
    chosen |= {name for name in values if any(part in name for part in chosen)}
    named = sorted(chosen, key=lambda name: (-len(name), name))
    return [*({"filter": name, "value": values[name]} for name in named), {"value": rest}]
