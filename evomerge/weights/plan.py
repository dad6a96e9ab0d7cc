"""How each tensor of a merged model is made, planned from headers alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import CheckpointError, ConfigError, PlanError
from evomerge.plugins.registry import did_you_mean
from evomerge.recipes import Recipe
from evomerge.weights.files.headers import DTYPES
from evomerge.weights.models import Models
from evomerge.weights.outline import recipe_problems
from evomerge.weights.segments import layout_of
from evomerge.weights.slots import Slot
from evomerge.weights.stacks.folding import Fold, folds
from evomerge.weights.statistics import Statistics, StatisticsKind, open_statistics
from evomerge.weights.steps import NO_FOLD, Step
from evomerge.weights.zeros import sums_models, zero_problems

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from evomerge.operators import Operator

# By the name that an operator has for its statistics, the kind in the manifest of their folder.
_KINDS: Mapping[str, StatisticsKind] = {
    "fisher": "fisher",
    "grams": "gram",
    "second_moments": "second_moments",
    "raw": "raw",
}

Frozen = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe with the checkpoints that it names: what `merge` carries out.

    Attributes:
        steps: in the order in which safetensors stores tensors: wide dtypes first, then by name.
        statistics: source to its statistics, where the operator needs some.
    """

    recipe: Recipe
    operator: Operator
    models: Models
    steps: tuple[Step, ...]
    statistics: Mapping[str, Statistics] = field(default_factory=dict)

    def statistics_of(self, slot: Slot) -> list[Tensor | None]:
        """(M,) statistics of each source's tensor; empty where the operator needs none."""
        if self.operator.statistics is None:
            return []
        elementwise = self.operator.statistics != "grams"
        return [
            self.models.sources[name].statistic(
                tensor, self.statistics[name].read, elementwise=elementwise
            )
            for name, tensor in slot.inputs.items()
        ]

    @property
    def nbytes(self) -> int:
        """Bytes of the merged weights."""
        return sum(step.nbytes for step in self.steps)


def make_plan(recipe: Recipe, models: Models) -> Plan:
    """Every output tensor with its inputs, shape, dtype and settings.

    Args:
        recipe: what to merge, and how.
        models: the recipe's, or those of a search that it belongs to.

    Raises:
        CheckpointError, PlanError, ConfigError: all mismatches of their kind at once.
    """
    from evomerge.operators import get  # which imports torch, as the types of a plan need not

    operator = get(recipe.operator)
    models = models.of(recipe)
    if problems := recipe_problems(recipe, operator, models.layers):
        raise PlanError(problems)
    planner = _Planner(recipe, operator, models)
    laid_out = _laid_out(recipe, models, planner.problems)
    folded: Mapping[str, Fold] = {}
    try:
        folded = folds(recipe.scales, models.base.config, models.slots)
    except PlanError as error:
        planner.problems += error.problems
    steps = [
        planner.step(slot, fold=folded.get(slot.name, NO_FOLD), **laid_out.get(slot.name, {}))
        for slot in models.slots
    ]
    statistics = _statistics(recipe, operator, models, planner.problems)
    planner.problems += zero_problems(recipe, operator, steps)
    if planner.problems:
        raise PlanError(dict.fromkeys(planner.problems))
    steps.sort(key=lambda step: (-step.dtype.itemsize, step.slot.name))
    return Plan(recipe, operator, models, tuple(steps), statistics)


def _laid_out(
    recipe: Recipe, models: Models, problems: list[str]
) -> Mapping[str, Mapping[str, Any]]:
    """Tensor name to the pieces or the offset of its step; empty without segments or lineage."""
    laid_out = recipe.segments or recipe.lineage
    if laid_out is None:
        return {}
    task_vectors = recipe.parameters.get("space") == "task_vector"
    try:
        layout = layout_of(models, laid_out.chromosomes, task_vectors=task_vectors)
    except PlanError as error:
        problems += error.problems
        return {}
    if laid_out.size != layout.size:
        where = "segments.bounds" if recipe.segments else "lineage.steps: ends"
        problems.append(
            f"{where}: the last is {laid_out.size}, but the models have {layout.size} elements to "
            "merge. Give the models that it was made for."
        )
        return {}
    if recipe.segments is not None:
        pieces = layout.pieces(recipe.segments)
        return {name: {"pieces": of_tensor} for name, of_tensor in pieces.items()}
    return {
        name: {"offset": start} for name, start in zip(layout.names, layout.starts, strict=False)
    }


def _statistics(
    recipe: Recipe, operator: Operator, models: Models, problems: list[str]
) -> dict[str, Statistics]:
    opened: dict[str, Statistics] = {}
    if operator.statistics is None:
        if recipe.statistics:
            problems.append(f"statistics: {operator.name} needs none. Remove this key.")
        return opened
    kind = _KINDS[operator.statistics]
    for name, folder in recipe.statistics.items():
        if name not in recipe.sources:
            known = did_you_mean(name, recipe.sources)
            problems.append(f"statistics.{name}: no such source.{known}")
            continue
        try:
            opened[name] = open_statistics(Path(folder), kind=kind, of=models.sources[name])
        except CheckpointError as error:
            problems += [f"statistics.{name}: {problem}" for problem in error.problems]
    cure = "Name a folder of them."
    if operator.statistics != "raw":
        cure = "Make them with `evomerge statistics` and name their folder."
    problems += [
        f"statistics: {operator.name} needs {operator.statistics} of {name}. {cure}"
        for name in recipe.sources
        if name not in recipe.statistics
    ]
    return opened


class _Planner:
    """Makes the steps of a recipe; each distinct set of settings is validated once."""

    def __init__(self, recipe: Recipe, operator: Operator, models: Models) -> None:
        self.recipe, self.operator, self.models = recipe, operator, models
        self.problems: list[str] = []
        self._validated: dict[Frozen, dict[str, Any]] = {}

    def step(self, slot: Slot, **keys: Any) -> Step:
        if not slot.floating:
            dtype = _dtype(DTYPES[slot.stored])
            return Step(slot=slot, dtype=dtype, per_source={}, shared={}, **keys)
        per_source = {
            name: tuple(self._per_source(name, source, slot) for source in slot.inputs)
            for name in self.operator.per_source
        }
        given = {
            name: value
            for name in self.recipe.parameters
            if name not in self.operator.per_source
            and (value := self._setting(name, None, slot)) is not None
        }
        shared = self._shared(given)
        sums = sums_models(self.operator, slot, shared)
        if slot.lacking and sums and not any(per_source.get("weight", (1,))):
            # those that have it would count for nothing in the model, and are all that there is
            per_source["weight"] = (1.0,) * len(slot.inputs)
        return Step(
            slot=slot,
            dtype=_dtype(self.recipe.dtype),
            per_source=per_source,
            shared=shared,
            **keys,
        )

    def _setting(self, name: str, source: str | None, slot: Slot) -> Any:
        # mergekit's rule: outside the blocks, even after them, the first value counts
        role, layer = slot.place.role, slot.place.layer or 0
        return self.recipe.setting(name, source, role, layer, slot.name)

    def _per_source(self, name: str, source: str, slot: Slot) -> float:
        bound = self.operator.per_source[name]
        value = self._setting(name, source, slot)
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


def _dtype(name: str) -> torch.dtype:
    import torch

    dtype: torch.dtype = getattr(torch, name)
    return dtype
