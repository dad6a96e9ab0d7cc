"""From a recipe to every output tensor and its inputs, from headers alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from evomerge.errors import ConfigError, PlanError
from evomerge.operators import Operator, get
from evomerge.recipes import Recipe
from evomerge.registry import did_you_mean
from evomerge.weights.headers import DTYPES
from evomerge.weights.models import Models, Slot

Frozen = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Step:
    """How one tensor of the merged model is made.

    Attributes:
        slot: name, shape, place and inputs.
        dtype: of the result.
        per_source: parameter to its values, one for each source in ``slot.inputs``.
        shared: the operator's other parameters.
    """

    slot: Slot
    dtype: torch.dtype
    per_source: Mapping[str, tuple[float, ...]]
    shared: Mapping[str, Any]

    @property
    def nbytes(self) -> int:
        """Bytes of the result."""
        return math.prod(self.slot.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe made concrete for the checkpoints that it names.

    Attributes:
        steps: in the order in which safetensors stores tensors: wide dtypes first, then by name.
    """

    recipe: Recipe
    operator: Operator
    models: Models
    steps: tuple[Step, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the merged weights."""
        return sum(step.nbytes for step in self.steps)


def make_plan(recipe: Recipe, models: Models | None = None) -> Plan:
    """Every output tensor with its inputs, shape, dtype and settings.

    Args:
        recipe: what to merge, and how.
        models: the recipe's checkpoints where they are open already.

    Raises:
        CheckpointError, PlanError, ConfigError: all mismatches of their kind at once.
    """
    operator = get(recipe.operator)
    models = models or Models(recipe.base, recipe.sources, recipe.tokenizer)
    problems = _recipe_problems(recipe, operator, models.base.layers)
    if problems:
        raise PlanError(problems)
    planner = _Planner(recipe, operator, models)
    steps = [planner.step(slot) for slot in models.slots]
    if planner.problems:
        raise PlanError(dict.fromkeys(planner.problems))
    steps.sort(key=lambda step: (-step.dtype.itemsize, step.slot.name))
    return Plan(recipe, operator, models, tuple(steps))


def _recipe_problems(recipe: Recipe, operator: Operator, layers: int) -> list[str]:
    """What is wrong with a recipe whatever its tensors are."""
    problems = [
        f"parameters.{path}: {count} values, but the model has {layers} blocks. "
        "Give one value a block."
        for path, count in recipe.lists()
        if count != layers
    ]
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
    if operator.on == "pair" and len(recipe.sources) > 2:
        problems.append(
            f"{operator.name} merges exactly two models: give one source (and it meets the base) "
            f"or two. Got {len(recipe.sources)}: {', '.join(recipe.sources)}."
        )
    return problems


class _Planner:
    """Looks settings up, each distinct set validated once."""

    def __init__(self, recipe: Recipe, operator: Operator, models: Models) -> None:
        self.recipe, self.operator, self.models = recipe, operator, models
        self.problems: list[str] = []
        self._validated: dict[Frozen, dict[str, Any]] = {}

    def step(self, slot: Slot) -> Step:
        # mergekit's rule: outside the blocks, even after them, the first value counts
        role, layer = slot.place.role, slot.place.layer or 0
        if not slot.floating:
            return Step(slot, getattr(torch, DTYPES[slot.stored]), {}, {})
        per_source = {
            name: tuple(self._per_source(name, source, role, layer) for source in slot.inputs)
            for name in self.operator.per_source
        }
        shared = {
            name: value
            for name in self.recipe.parameters
            if name not in self.operator.per_source
            and (value := self.recipe.setting(name, None, role, layer)) is not None
        }
        dtype: torch.dtype = getattr(torch, self.recipe.dtype)
        return Step(slot, dtype, per_source, self._shared(shared))

    def _per_source(self, name: str, source: str, role: str, layer: int) -> float:
        bound = self.operator.per_source[name]
        value = self.recipe.setting(name, source, role, layer)
        if value is None:
            return bound.default
        if problem := bound.problem(value):
            self.problems.append(f"parameters.{name} for {source}: {problem}")
            return bound.default
        return float(value)

    def _shared(self, settings: dict[str, Any]) -> dict[str, Any]:
        key = tuple(sorted(settings.items()))
        if key not in self._validated:
            try:
                self._validated[key] = self.operator.validate_shared(settings, "parameters.")
            except ConfigError as error:
                self.problems += error.problems
                self._validated[key] = dict(self.operator.shared)
        return self._validated[key]
