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
    """A recipe made concrete for the checkpoints that it names."""

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
        models: the recipe's checkpoints where they are open already.

    Raises:
        CheckpointError, PlanError, ConfigError: all mismatches of their kind at once.
    """
    operator = get(recipe.operator)
    models = models or Models(recipe.base, recipe.sources, recipe.tokenizer)
    problems = [
        f"parameters.{path}: {count} values, but the model has {models.base.layers} blocks"
        for path, count in recipe.lists()
        if count != models.base.layers
    ]
    if operator.on == "pair" and len(recipe.sources) > 2:
        problems.append(
            f"{operator.name} merges exactly two models: give one source (and it meets the base) "
            f"or two. Got {len(recipe.sources)}: {', '.join(recipe.sources)}."
        )
    if problems:
        raise PlanError(problems)
    planner = _Planner(recipe, operator, models)
    steps = tuple(planner.step(slot) for slot in models.slots)
    if planner.problems:
        raise PlanError(dict.fromkeys(planner.problems))
    return Plan(recipe, operator, models, steps)


class _Planner:
    """Looks settings up, each distinct set validated once."""

    def __init__(self, recipe: Recipe, operator: Operator, models: Models) -> None:
        self.recipe, self.operator, self.models = recipe, operator, models
        self.problems: list[str] = []
        self._validated: dict[Frozen, dict[str, Any]] = {}

    def step(self, slot: Slot) -> Step:
        role, last = slot.place.role, self.models.base.layers - 1
        # mergekit's rule: embeddings are at the start of a gradient, what follows the blocks
        # at its end
        outside = 0 if role == "embedding" else last
        layer = slot.place.layer if slot.place.layer is not None else outside
        if not slot.floating:
            info = self.models.base.tensors[str(slot.base)] if slot.base else None
            return Step(slot, _storage_dtype(info.dtype if info else "U8"), {}, {})
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
                self._validated[key] = self.operator.validate_shared(settings, "parameters")
            except ConfigError as error:
                self.problems += error.problems
                self._validated[key] = dict(self.operator.shared)
        return self._validated[key]


def _storage_dtype(code: str) -> torch.dtype:
    names = {"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8"}
    names |= {"BOOL": "bool", "U16": "uint16", "U32": "uint32", "U64": "uint64"}
    names |= {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
    dtype: torch.dtype = getattr(torch, names.get(code, "uint8"))
    return dtype
