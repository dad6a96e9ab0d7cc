"""Merged tensors that candidates share, each held once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping
from dataclasses import fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from evomerge.engines._architecture import fill
from evomerge.weights.models import Models
from evomerge.weights.plan import Plan, Step

Spare = defaultdict[tuple[tuple[int, ...], torch.dtype], list[Tensor]]

# Beginnings of settings whose effect depends on where in the stack a tensor stands.
_PLACED = ("sparsify_", "lines_")
# Operators that measure the whole model at any scope.
_WHOLE = ("opcm", "fisher")


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
            rows if slot.aligned else "",
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
        """Bytes of all tensors that are held."""
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
