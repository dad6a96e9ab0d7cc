"""Tensors of models that are all taken times 0, as the settings of a plan tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evomerge.errors import listed

if TYPE_CHECKING:
    from evomerge.operators import Operator
    from evomerge.recipes import Recipe
    from evomerge.weights.slots import Slot
    from evomerge.weights.steps import Step


def zero_notes(operator: Operator, steps: Sequence[Step]) -> list[str]:
    """A sentence where some tensors of a merged model become 0."""
    names = [step.slot.name for step in steps if _is_zero(step, operator)]
    if not names:
        return []
    return [f"{_factor(operator)}: 0 for all sources in {listed(names)}, which become 0."]


def zero_problems(recipe: Recipe, operator: Operator, steps: Sequence[Step]) -> list[str]:
    """A sentence where all tensors of a merged model become 0.

    That depends on no value of a model, and on no other candidate. Where the recipe merges some
    modules alone, the others are the base's.
    """
    merged = [step for step in steps if step.slot.inputs and step.slot.floating]
    if recipe.modules or not merged or not all(_is_zero(step, operator) for step in merged):
        return []
    return [
        f"{_factor(operator)}: 0 for all sources in every tensor, so that {operator.name} gives a "
        "model of zeros. Give one source another value."
    ]


def sums_models(operator: Operator, slot: Slot, shared: Mapping[str, Any]) -> bool:
    """Whether a tensor is made of models, and not of task vectors that are added to the base's.

    Args:
        shared: the operator's settings for this tensor.
    """
    on_weights = operator.on == "either" and shared.get("space") == "weights"
    return operator.on == "weights" or on_weights or slot.base is None


def _is_zero(step: Step, operator: Operator) -> bool:
    """Whether a tensor becomes 0 whatever the models hold."""
    slot = step.slot
    if not (slot.inputs and slot.floating and sums_models(operator, slot, step.shared)):
        return False
    if step.pieces:
        return not any(value for _, weight in step.pieces for value in weight)
    return operator.factor is not None and not any(step.per_source[operator.factor])


def _factor(operator: Operator) -> str:
    """Where a recipe has what its models are multiplied by."""
    return "segments.rows" if operator.factor is None else f"parameters.{operator.factor}"
