"""Recipes rewritten to operators and parameters that mergekit has, with the same weights."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from evomerge.errors import ExportError
from evomerge.recipes import Recipe, Scalar
from evomerge.recipes._stack import slice_lengths
from evomerge.recipes.layout import lay_out
from evomerge.recipes.mergekit.filters import by_filter, by_name
from evomerge.recipes.mergekit.methods import RESCALED, MergeMethod
from evomerge.recipes.places import Place

Folds = Mapping[str, tuple[float, float]]  # tensor name to the factor on it, and what is added


def without_segments(
    recipe: Recipe, places: Mapping[str, Place], shapes: Mapping[str, tuple[int, ...]]
) -> Recipe:
    """Segments that begin and end where tensors do, as weights by tensor name.

    Args:
        places, shapes: of every tensor of the merged model.

    Raises:
        ExportError: a segment begins inside a tensor, or weights are mutated.
    """
    if recipe.operator != "segments":
        return recipe
    if recipe.lineage is not None:
        raise ExportError(
            "lineage: mergekit knows no random changes of weights. Build the checkpoint instead: "
            "evomerge build."
        )
    weight: Any = 1 / len(recipe.sources)
    if (segments := recipe.segments) is not None:
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        layout = lay_out(places, sizes, segments.chromosomes)
        inner = sorted(set(segments.bounds) - set(layout.starts))
        spans = zip(layout.names, pairwise(layout.starts), strict=True)
        cut = [name for name, (start, stop) in spans if any(start < b < stop for b in inner)]
        if cut:
            raise ExportError(
                f"segments: {len(cut)} tensors are cut in pieces, {cut[0]} first, and mergekit "
                "knows whole ones alone. Search with align: tensor."
            )
        rows = {name: pieces[0][1] for name, pieces in layout.pieces(segments).items()}
        weight = {
            source: _by_whole_name({name: row[number] for name, row in rows.items()})
            for number, source in enumerate(recipe.sources)
        }
    on_deltas = recipe.parameters.get("space") == "task_vector"
    return _changed(
        recipe,
        operator="task_arithmetic" if on_deltas else "linear",
        parameters={"weight": weight, "normalize": False},
        segments=None,
    )


def without_scales(recipe: Recipe, places: Mapping[str, Place], folds: Folds) -> Recipe:
    """Scales of the residual stream as a factor on each tensor that they fold into.

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

    def scale(name: str, place: Place, layer: int) -> Scalar:
        source = sources[layer] if sources else next(iter(recipe.sources))
        own = recipe.setting("scale", source, place.role, layer, name)
        return (1.0 if own is None else float(own)) * folds.get(name, (1.0, 0.0))[0]

    try:
        setting = by_filter(by_name(places, len(recipe.scales), scale))
    except ValueError as error:
        raise ExportError(f"scales: {error}, as mergekit needs. Build the recipe.") from None
    return _changed(recipe, scales=(), parameters={"scale": setting})


def with_rescale(recipe: Recipe, method: MergeMethod) -> tuple[Recipe, MergeMethod]:
    """Modifiers that restore the sum of magnitudes as the ``rescale`` of the method itself.

    mergekit's ``ties`` and ``breadcrumbs`` have one, ours leave that to modifiers.
    """
    given = dict(recipe.parameters)
    kept = RESCALED.get(recipe.operator)
    if kept is None or "density" in given or given.get("sparsify_method") != kept:
        return recipe, method
    del given["sparsify_method"]
    names = ["density", "rescale", *(["gamma"] if "gamma" in method.per_source else [])]
    for name in names:
        if f"sparsify_{name}" in given:
            given[name] = given.pop(f"sparsify_{name}")
    shared = {**method.shared, "rescale": "none"}
    return recipe.model_copy(update={"parameters": given}), replace(method, shared=shared)


def _changed(recipe: Recipe, **fields: Any) -> Recipe:
    """The recipe with other fields, validated."""
    # not dict(recipe), which has the digest too once somebody asked for it
    kept = {name: getattr(recipe, name) for name in Recipe.model_fields}
    return Recipe.model_validate(kept | fields)


def _by_whole_name(values: Mapping[str, float]) -> Any:
    """Lines for all tensors but those with the most common value.

    A filter selects every name that it is a part of, so that longer names come first.
    """
    rest = Counter(values.values()).most_common(1)[0][0]
    chosen = {name for name, value in values.items() if value != rest}
    chosen |= {name for name in values if any(part in name for part in chosen)}
    ordered = sorted(chosen, key=lambda name: (-len(name), name))
    return [*({"filter": name, "value": values[name]} for name in ordered), {"value": rest}]
