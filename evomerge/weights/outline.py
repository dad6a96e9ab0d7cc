"""The tensors of a merged model from headers alone, and mistakes that show without a tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from evomerge.errors import PlanError
from evomerge.plugins.registry import did_you_mean
from evomerge.recipes import Recipe
from evomerge.recipes.places import Place
from evomerge.weights.files.headers import BYTES, FLOATS
from evomerge.weights.models import Models
from evomerge.weights.stacks.folding import Fold, folds

if TYPE_CHECKING:
    from evomerge.operators import Operator


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


def recipe_problems(recipe: Recipe, operator: Operator, layers: int) -> list[str]:
    """A sentence for each mistake in a recipe that shows without looking at any tensor.

    Args:
        operator: the recipe's.
        layers: blocks of the merged model.
    """
    problems = depth_problems(recipe, layers)
    for name, setting in recipe.parameters.items():
        if name not in operator.parameters:
            known = did_you_mean(name, operator.parameters)
            problems.append(f"parameters.{name}: unknown key.{known}")
        elif name in operator.shared and isinstance(setting, Mapping):
            problems += [
                f"parameters.{name}.{source}: all sources share this parameter. Give one value."
                for source in setting
                if source in recipe.sources
            ]
    if operator.experimental and not recipe.experimental:
        problems.append(
            f"operator: {operator.name} is experimental: its published equations could not be "
            "checked. Set experimental: true to use it all the same."
        )
    problems += [
        f"{key}: {operator.name} has none. Set operator: segments."
        for key in ("segments", "lineage")
        if getattr(recipe, key) is not None and operator.name != "segments"
    ]
    changed = [key for key in recipe.parameters if key.startswith(("sparsify_", "compeft_"))]
    is_global = recipe.parameters.get("scope") == "global" or operator.name == "opcm"
    if changed and is_global:
        problems.append(
            f"parameters.{changed[0]}: {operator.name} looks at the whole model, which cannot "
            "follow this. Set scope: tensor, or leave it out."
        )
    return [*problems, *_count_problems(recipe, operator)]


def depth_problems(recipe: Recipe, layers: int) -> list[str]:
    """A sentence for each list that does not have one value for every block."""
    lists = [(f"parameters.{path}", count) for path, count in recipe.lists()]
    if recipe.scales:
        lists.append(("scales", len(recipe.scales)))
    return [
        f"{path}: {count} values, but the model has {layers} blocks. Give one value a block."
        for path, count in lists
        if count != layers
    ]


def _count_problems(recipe: Recipe, operator: Operator) -> list[str]:
    """A sentence if there are too many or too few sources for the operator."""
    groups = [tuple(s) for s in recipe.slices] or [tuple(recipe.sources)]
    # the base takes part as one of the sources only where it is one
    counts = {len([name for name in group if name in recipe.sources]) for group in groups}
    least = 1 if operator.on == "pair" else operator.sources
    most = operator.sources
    if most is None or least is None or all(least <= count <= most for count in counts):
        return []
    wanted = {1: "one source"}.get(most, f"{most} sources")
    if operator.on == "pair":
        wanted = "exactly two models: give one source (and it meets the base) or two"
    where = "in each slice" if recipe.slices else ", ".join(recipe.sources)
    return [f"{operator.name} merges {wanted}. Got {max(counts)}: {where}."]
