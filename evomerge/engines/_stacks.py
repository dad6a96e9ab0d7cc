"""Candidates of any depth in Transformers, which share the tensors that they have in common."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from evomerge.engines._architecture import empty_model, fill, memory_of, require_fit
from evomerge.engines._packing import live_arrays
from evomerge.weights.architecture.arrays import Leaf, leaves
from evomerge.weights.layouts.lazy_arrays import LazyArray
from evomerge.weights.models import Models
from evomerge.weights.output.metadata import merged_config
from evomerge.weights.plan import Plan
from evomerge.weights.steps import Step

_KEPT = 16  # configs whose modules are kept: they hold no weights
Spare = defaultdict[tuple[tuple[int, ...], torch.dtype], list[Tensor]]

# Beginnings of settings whose effect depends on where in the stack a tensor stands.
_PLACED = ("sparsify_", "lines_")
# Operators that measure the whole model at any scope.
_WHOLE = ("opcm", "fisher")


class Stacks:
    """Loads plans of any depth, one live model at a time.

    Memory is that of the distinct tensors of the largest stack: those which a candidate leaves
    free are kept for the next, so that a path over blocks that are held takes no merging.

    Args:
        models: with the deepest stack that is expected. Their distinct tensors set the limit.
        dtype: of the live models.
        generation: the `GenerationConfig` of them all, if there is one.
        options: for Transformers.

    Attributes:
        model: without weights, as deep as ``models``.

    Raises:
        PlanError: Transformers cannot build the model, or its tensors are not those of the models.
    """

    def __init__(
        self,
        models: Models,
        dtype: torch.dtype,
        device: torch.device,
        generation: Any,
        **options: Any,
    ) -> None:
        self._dtype, self._device, self._options = dtype, device, options
        self._generation = generation
        self._shells: dict[str, ModelShell] = {}  # by config, in the order of their last use
        self._used: ModelShell | None = None
        first = self._shell(models)
        self.model = first.model
        self._pool = TensorPool(distinct_bytes(models, first.tensors), device)

    def load(self, plan: Plan) -> Any:
        """The plan as a Transformers model. The previous model is left without weights.

        Raises:
            PlanError: Transformers cannot build it.
            CheckpointError, CandidateError: as `merge_into`.
        """
        if self._used is not None:
            self._used.fill(self._used.tensors)
        shell = self._shell(plan.models)
        shell.fill(self._pool.tensors(plan, shell.tensors))
        self._used = shell
        if self._generation is not None:
            shell.model.generation_config = self._generation
        return shell.model

    def _shell(self, models: Models) -> ModelShell:
        """The shell of the merged config: one that was kept, or a new one."""
        key = json.dumps(merged_config(models, models.dtype), sort_keys=True)
        shell = self._shells.pop(key, None)
        if shell is None or shell.tensors.keys() != {slot.name for slot in models.slots}:
            shell = ModelShell(models, self._dtype, self._device, **self._options)
        self._shells[key] = shell
        if len(self._shells) > _KEPT:
            del self._shells[next(iter(self._shells))]
        return shell


class ModelShell:
    """The modules that a merged config describes, their parameters on the meta device.

    Every block is made for its place in the stack: it has the index of its own keys and values in
    the cache, and the kind of attention that the merged config gives it. Blocks are the same only
    in the tensors that they are given.

    Args:
        dtype, device: of its buffers.

    Attributes:
        tensors: of the shapes of the plan by its names, on the meta device, in the dtypes of the
            model's parameters and buffers that they are or become a part of.

    Raises:
        PlanError: Transformers cannot build it, or its tensors are not those of the models.
    """

    def __init__(
        self, models: Models, dtype: torch.dtype, device: torch.device, **options: Any
    ) -> None:
        from accelerate import init_empty_weights  # a second of import

        config = merged_config(models, models.dtype)
        with TemporaryDirectory(prefix="evomerge-") as name:
            (Path(name) / "config.json").write_text(json.dumps(config), encoding="utf-8")
            with init_empty_weights(include_buffers=False):
                self.model = empty_model(models, Path(name), dtype, device, **options)
        self._live = self.model.state_dict(keep_vars=True)
        self._arrays = live_arrays(models, self.model)
        wanted = {name: array.shape for name, array in self._arrays.items()}
        require_fit(models, type(self.model).__name__, self._live, wanted)
        self.tensors: dict[str, Tensor] = {}
        for name, array in self._arrays.items():
            for leaf in leaves(array):
                live = self._live[name]
                own = isinstance(array, Leaf)
                self.tensors[leaf.name] = live if own else live.new_empty(leaf.shape)
        # by memory, the modules and names that hold a tensor: several if it is tied
        self._sites = defaultdict[int, list[tuple[nn.Module, str]]](list)
        for module in self.model.modules():
            for leaf, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    self._sites[memory_of(tensor)].append((module, leaf))

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Compute with these tensors, which other shells may share."""
        for name, array in self._arrays.items():
            lazy = LazyArray(array, tensors.__getitem__)
            tensor = tensors[array.name] if isinstance(array, Leaf) else lazy.whole()
            for module, leaf in self._sites[memory_of(self._live[name])]:
                if leaf in module._buffers:
                    module._buffers[leaf] = tensor
                else:
                    module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)


def identities(plan: Plan) -> dict[str, Hashable]:
    """Name of every tensor to all that its value depends on.

    Tensors of equal identities have equal values, so that a block which a stack has several times
    is held once. Where a tensor stands in the stack is a part of its identity only where the value
    depends on it: random numbers come from a tensor's name, and LiNeS scales by depth.
    """
    operator, recipe, models = plan.operator, plan.recipe, plan.models
    keys = recipe.parameters
    placed = operator.random or operator.name == "lines" or any(k.startswith(_PLACED) for k in keys)
    # another stack has other tensors, and so another threshold
    whole = recipe.canonical_json() if _looks_at_all(plan) else ""
    steps = "" if recipe.lineage is None else recipe.lineage.model_dump_json()
    rows = ""
    if models.vocabulary is not None:
        rows = models.composition.model_copy(update={"slices": ()}).canonical_json()

    def identity(step: Step) -> Hashable:
        slot = step.slot
        inputs = tuple((name, models.sources[name], own) for name, own in slot.inputs.items())
        statistics = tuple(recipe.statistics.get(name) for name in slot.inputs)
        settings = [repr(getattr(step, f.name)) for f in fields(step) if f.name != "slot"]
        return (
            *(operator.name, recipe.seed, inputs, statistics, *settings),
            *((models.base, slot.base) if slot.base is not None else ()),
            (slot.place.role, len(slot.lacking), slot.merged),
            (slot.key, models.layers, slot.place.layer) if placed or whole else (),
            whole,
            steps,
            "" if slot.token_axis is None else rows,
        )

    return {step.slot.name: identity(step) for step in plan.steps}


class _Key(NamedTuple):
    """A tensor of the pool: what it is made of, the dtype it is held in, and whether scaled."""

    identity: Hashable
    dtype: torch.dtype
    scaled: bool


class TensorPool:
    """Merged tensors by what they are made of, kept from candidate to candidate.

    What the present candidate does not need stays for later ones while there is room, and goes
    in the order of its last use. Its memory is used again.

    Args:
        limit_bytes: that the pool may hold, or as much as one candidate needs, if that is more.
    """

    def __init__(self, limit_bytes: int, device: torch.device) -> None:
        self.limit_bytes, self.device = limit_bytes, device
        self._held: dict[_Key, Tensor] = {}  # in the order of their last use

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._held.values())

    def tensors(self, plan: Plan, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The plan's tensors by name; those that are not held are merged.

        Args:
            like: tensors of the live model by name, whose dtypes the results have.

        Raises:
            CheckpointError, PlanError, CandidateError: as `merge_into`; what was begun is dropped.
        """
        known = identities(plan)
        keys = {
            step.slot.name: _Key(known[step.slot.name], like[step.slot.name].dtype, step.is_folded)
            for step in plan.steps
        }
        steps = {keys[step.slot.name]: step for step in plan.steps}
        missing = {key: step for key, step in steps.items() if key not in self._held}
        if missing and _looks_at_all(plan):
            missing = steps
        try:
            self._allocate(steps, missing)
            if missing:
                targets = {step.slot.name: self._held[key] for key, step in missing.items()}
                fill(targets, replace(plan, steps=tuple(missing.values())), self.device)
        except BaseException:  # memory that nothing was merged into, too
            for key in missing:
                self._held.pop(key, None)
            raise
        return {name: self._held[key] for name, key in keys.items()}

    def _allocate(self, steps: Mapping[_Key, Step], missing: Mapping[_Key, Step]) -> None:
        """Take memory for what is missing, reusing that of tensors which are let go."""
        new = [key for key in missing if key not in self._held]
        nbytes = {key: math.prod(steps[key].slot.shape) * key.dtype.itemsize for key in new}
        spare = self._make_room(steps, sum(nbytes.values()))
        for key in new:
            shape = steps[key].slot.shape
            left = spare[shape, key.dtype]
            self._held[key] = (
                left.pop() if left else torch.empty(shape, dtype=key.dtype, device=self.device)
            )
        for key in steps:
            self._held[key] = self._held.pop(key)  # to the end: used last

    def _make_room(self, wanted: Collection[_Key], nbytes: int) -> Spare:
        """Let go of tensors: scaled ones first, as no other path has them.

        Args:
            wanted: keys of tensors that must stay.
            nbytes: that are needed.

        Returns:
            What went, by shape and dtype.
        """
        excess = self.nbytes + nbytes - self.limit_bytes
        spare: Spare = defaultdict(list)
        unused = [key for key in self._held if key not in wanted]
        for key in sorted(unused, key=lambda key: not key.scaled):
            if excess <= 0:
                break
            tensor = self._held.pop(key)
            excess -= tensor.nbytes
            spare[tuple(tensor.shape), tensor.dtype].append(tensor)
        return spare


def distinct_bytes(models: Models, like: Mapping[str, Tensor]) -> int:
    """Bytes of the merged tensors, those with the same inputs counted once.

    Args:
        like: tensors of the live model by name.
    """
    distinct: dict[Hashable, int] = {}
    for slot in models.slots:
        made_of = tuple((id(models.sources[name]), own) for name, own in slot.inputs.items())
        live = like[slot.name]
        distinct[made_of or (slot.base,), live.dtype] = live.nbytes
    return sum(distinct.values())


def _looks_at_all(plan: Plan) -> bool:
    """Whether the value of a merged tensor depends on the inputs of others."""
    return plan.operator.name in _WHOLE or "global" in plan.recipe.parameters.values()
