"""From a recipe to every output tensor and its inputs, from headers alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import CheckpointError, ConfigError, PlanError
from evomerge.plugins.registry import did_you_mean
from evomerge.recipes import Recipe
from evomerge.weights.folding import Fold, folds
from evomerge.weights.headers import DTYPES
from evomerge.weights.models import Models, Slot
from evomerge.weights.outline import depth_problems
from evomerge.weights.segments import layout_of
from evomerge.weights.statistics import Statistics, StatisticsKind, open_statistics

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from evomerge.operators import Operator

# What operators call their statistics, and what the manifest of a folder of them says.
_KINDS: Mapping[str, StatisticsKind] = {
    "fisher": "fisher",
    "grams": "gram",
    "second_moments": "second_moments",
    "raw": "raw",
}

Frozen = tuple[tuple[str, Any], ...]
Pieces = tuple[tuple[int, tuple[float, ...]], ...]
_NO_FOLD = Fold(1.0)


@dataclass(frozen=True, slots=True)
class Step:
    """How one tensor of the merged model is made.

    Attributes:
        slot: name, shape, place and inputs.
        dtype: of the result.
        per_source: parameter to its values, one for each source in ``slot.inputs``.
        shared: the operator's other parameters.
        pieces: where pieces of the tensor end, and the weights of the sources on each.
        fold: what becomes of the merged values just before they are rounded.
        offset: where the recipe's lineage has its first element.
    """

    slot: Slot
    dtype: torch.dtype
    per_source: Mapping[str, tuple[float, ...]]
    shared: Mapping[str, Any]
    pieces: Pieces = ()
    fold: Fold = _NO_FOLD
    offset: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the result."""
        return math.prod(self.slot.shape) * self.dtype.itemsize

    @property
    def is_folded(self) -> bool:
        """Whether `fold` changes anything."""
        return self.fold != _NO_FOLD and self.slot.floating


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe made concrete for the checkpoints that it names.

    Attributes:
        steps: in the order in which safetensors stores tensors: wide dtypes first, then by name.
        statistics: source to what was recorded of it, where the operator needs it.
    """

    recipe: Recipe
    operator: Operator
    models: Models
    steps: tuple[Step, ...]
    statistics: Mapping[str, Statistics] = field(default_factory=dict)

    def statistics_of(self, slot: Slot) -> list[Tensor | None]:
        """(M,) what the operator needs to know of each source's tensor; empty if nothing."""
        if self.operator.statistics is None:
            return []
        return [self.statistics[name].read(tensor) for name, tensor in slot.inputs.items()]

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
    problems = _recipe_problems(recipe, operator, models.layers)
    if problems:
        raise PlanError(problems)
    planner = _Planner(recipe, operator, models)
    laid_out = _laid_out(recipe, models, planner.problems)
    folded = _folds(recipe, models, planner.problems)
    steps = [
        replace(
            planner.step(slot),
            fold=folded.get(slot.name, _NO_FOLD),
            **laid_out.get(slot.name, {}),
        )
        for slot in models.slots
    ]
    statistics = _statistics(recipe, operator, models, planner.problems)
    if planner.problems:
        raise PlanError(dict.fromkeys(planner.problems))
    steps.sort(key=lambda step: (-step.dtype.itemsize, step.slot.name))
    return Plan(recipe, operator, models, tuple(steps), statistics)


def _recipe_problems(recipe: Recipe, operator: Operator, layers: int) -> list[str]:
    """What is wrong with a recipe whatever its tensors are."""
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


def _folds(recipe: Recipe, models: Models, problems: list[str]) -> Mapping[str, Fold]:
    """Tensor name to what the recipe's scales do to it."""
    try:
        return folds(recipe.scales, models.base.config, models.slots)
    except PlanError as error:
        problems += error.problems
        return {}


def _laid_out(
    recipe: Recipe, models: Models, problems: list[str]
) -> Mapping[str, Mapping[str, Any]]:
    """Tensor name to what its step has of the recipe's segments or lineage."""
    found = recipe.segments or recipe.lineage
    if found is None:
        return {}
    task_vectors = recipe.parameters.get("space") == "task_vector"
    try:
        layout = layout_of(models, found.chromosomes, task_vectors=task_vectors)
    except PlanError as error:
        problems += error.problems
        return {}
    if found.size != layout.size:
        where = "segments.bounds" if recipe.segments else "lineage.steps: ends"
        problems.append(
            f"{where}: the last is {found.size}, but the models have {layout.size} elements to "
            "merge. Give the models that it was made for."
        )
        return {}
    if recipe.segments is not None:
        pieces = layout.pieces(recipe.segments)
        return {name: {"pieces": of_tensor} for name, of_tensor in pieces.items()}
    return {
        name: {"offset": start} for name, start in zip(layout.names, layout.starts, strict=False)
    }


def _count_problems(recipe: Recipe, operator: Operator) -> list[str]:
    """Too many sources, or too few, for the operator."""
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
    where = "in each slice" if recipe.slices else f"{', '.join(recipe.sources)}"
    return [f"{operator.name} merges {wanted}. Got {max(counts)}: {where}."]


def _statistics(
    recipe: Recipe, operator: Operator, models: Models, problems: list[str]
) -> dict[str, Statistics]:
    """What was recorded of each source, opened."""
    found: dict[str, Statistics] = {}
    if operator.statistics is None:
        if recipe.statistics:
            problems.append(f"statistics: {operator.name} needs none. Remove this key.")
        return found
    for name, folder in recipe.statistics.items():
        if name not in recipe.sources:
            known = did_you_mean(name, recipe.sources)
            problems.append(f"statistics.{name}: no such source.{known}")
            continue
        try:
            source = models.sources[name]
            found[name] = open_statistics(Path(folder), kind=_KINDS[operator.statistics], of=source)
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
    return found


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
            return Step(slot, _dtype(DTYPES[slot.stored]), {}, {})
        per_source = {
            name: tuple(self._per_source(name, source, slot) for source in slot.inputs)
            for name in self.operator.per_source
        }
        shared = {
            name: value
            for name in self.recipe.parameters
            if name not in self.operator.per_source
            and (value := self.recipe.setting(name, None, role, layer, slot.name)) is not None
        }
        return Step(slot, _dtype(self.recipe.dtype), per_source, self._shared(shared))

    def _per_source(self, name: str, source: str, slot: Slot) -> float:
        bound = self.operator.per_source[name]
        role, layer = slot.place.role, slot.place.layer or 0
        value = self.recipe.setting(name, source, role, layer, slot.name)
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

    found: torch.dtype = getattr(torch, name)
    return found
