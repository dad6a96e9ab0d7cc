"""The tensors of a merged model without their values, from headers alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from evomerge.errors import PlanError
from evomerge.recipes import Recipe
from evomerge.recipes.places import Place
from evomerge.weights.folding import Fold, folds
from evomerge.weights.headers import BYTES, FLOATS
from evomerge.weights.models import Models
from evomerge.weights.recipe_problems import depth_problems


class Outline(NamedTuple):
    """Three mappings from tensor names: to places, to shapes, to how scales are folded in."""

    places: Mapping[str, Place]
    shapes: Mapping[str, tuple[int, ...]]
    folds: Mapping[str, Fold]


def outline(recipe: Recipe, models: Models) -> Outline:
    """The tensors of a recipe's merged model, in the order of a plan.

    Whether its operator can merge them, only a plan tells.

    Raises:
        PlanError: lists that do not have one value a block, scales that cannot be folded in.
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
