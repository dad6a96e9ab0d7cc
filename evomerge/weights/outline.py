"""What a recipe makes of its models but for the values, from headers alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from evomerge.errors import PlanError
from evomerge.recipes import Recipe
from evomerge.weights.folding import Fold, folds
from evomerge.weights.headers import BYTES, FLOATS
from evomerge.weights.models import Models
from evomerge.weights.names import Place


class Outline(NamedTuple):
    """Tensor name to its place, to its shape, and to what the recipe's scales do to it."""

    places: Mapping[str, Place]
    shapes: Mapping[str, tuple[int, ...]]
    folds: Mapping[str, Fold]


def outline(recipe: Recipe, models: Models) -> Outline:
    """The tensors of a recipe's merged model; whether its operator can give them, a plan says.

    Args:
        recipe: what to merge.
        models: its models.

    Raises:
        PlanError: all mismatches at once.
    """
    if problems := depth_problems(recipe, models.layers):
        raise PlanError(problems)
    folded = folds(recipe.scales, models.base.config, models.slots)
    own = {name: BYTES[code] for code, name in FLOATS.items()}[recipe.dtype]
    # as the steps of a plan: wide dtypes first, then by name
    slots = sorted(models.slots, key=lambda s: (-(own if s.floating else BYTES[s.stored]), s.name))
    return Outline(
        {slot.name: slot.place for slot in slots},
        {slot.name: slot.shape for slot in slots},
        {slot.name: folded.get(slot.name, Fold(1.0)) for slot in slots},
    )


def depth_problems(recipe: Recipe, layers: int) -> list[str]:
    """A sentence for each list of a recipe that has not one value a block."""
    problems = [
        f"parameters.{path}: {count} values, but the model has {layers} blocks. "
        "Give one value a block."
        for path, count in recipe.lists()
        if count != layers
    ]
    if recipe.scales and len(recipe.scales) != layers:
        problems.append(
            f"scales: {len(recipe.scales)} values, but the model has {layers} blocks. "
            "Give one value a block."
        )
    return problems
