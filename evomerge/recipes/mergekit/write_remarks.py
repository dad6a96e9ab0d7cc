"""Comments on an exported YAML: where mergekit's result will differ a little."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from evomerge.recipes.mergekit.write_values import Values

_RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")


def remarks(values: Values, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Lines of text: what differs, and why values are not the recipe's."""
    recipe, method = values.recipe, values.method
    operator = recipe.operator
    yield "For mergekit 0.1.5 or newer. As in evomerge, arithmetic is float32 (dtype)"
    yield "and the result is rounded once, to out_dtype."
    if recipe.tokenizer == "base":
        yield "mergekit cuts rows of embedding and head that belong to no token; evomerge keeps"
        yield "the base's shape."
    first = next(iter(recipe.sources.values()))
    if operator == "slerp" and len(recipe.sources) == 2 and first != recipe.base:
        yield "mergekit takes config and tokenizer from base_model, evomerge from"
        yield f"{recipe.base}: copy them from there."
    if method.base == "optional" and recipe.parameters.get("space") == "weights":
        yield "mergekit takes config and tokenizer from any of the models, evomerge from"
        yield f"{recipe.base}: copy them from there."
    if operator in _RANDOM:
        yield "mergekit draws its own random masks, others on every run: the merge has the same"
        yield "distribution as evomerge's, not the same weights."
        if "inverse" in values.every("rescale"):
            yield "Each weight has been divided by its density: evomerge's rescale: inverse."
    elif {"density", "sparsify_density"} & set(recipe.parameters):
        yield "Of elements equal in magnitude at the edge of a density, mergekit keeps any,"
        yield "evomerge the first: a few elements per tensor can differ."
    if "density" in method.per_source and operator not in _RANDOM:
        yield from _emptied(values, shapes)
    if operator == "model_stock" and recipe.parameters.get("clamp", True):
        yield "Where task vectors point apart on average, mergekit extrapolates; evomerge takes"
        yield "the base."
    if operator == "sce" and not recipe.parameters.get("coefficient_floor"):
        yield "Of task vectors whose squares add up to less than 1e-6, mergekit takes the mean."
    if operator == "arcee_fusion":
        yield "mergekit draws a sample of large tensors to find its threshold, evomerge sorts them."


def _emptied(values: Values, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """The first tensor of which some density keeps less than one element."""
    for spot in values.settings.spots:
        count = math.prod(shapes.get(spot.tensor, (0,)))
        densities = (values.at("density", source, spot) for source in values.recipe.sources)
        if count and any(float(density) * count < 1 for density in densities):
            if values.method.name == "ties":
                yield (
                    f"mergekit before 0.1.5 stops at {spot.tensor}: the density leaves no element."
                )
            else:
                yield f"Of {spot.tensor} mergekit keeps no element, evomerge one."
            return
