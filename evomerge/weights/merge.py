"""A plan carried out: one tensor after another, float32 inside, one cast at the end."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from evomerge.errors import CandidateError, CheckpointError, PlanError
from evomerge.operators import combine
from evomerge.weights.checkpoint import Checkpoint, all_finite
from evomerge.weights.models import Models, Slot
from evomerge.weights.plan import Plan, Step
from evomerge.weights.vocabulary import align

_BLOCK = 1 << 20  # elements drawn from one seed, rule R12


def merge(plan: Plan) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every tensor of the merged model, in the plan's order.

    Raises:
        CheckpointError: a source holds NaN or infinities; names file and tensor.
        PlanError: a tensor that is not floating point differs between the models.
        CandidateError: the merged tensor is not finite though its inputs are.
    """
    for step in plan.steps:
        yield step.slot.name, _carry_out(step, plan)


def _carry_out(step: Step, plan: Plan) -> Tensor:
    slot, models = step.slot, plan.models
    if not slot.floating:
        return _copy(slot, models)
    base = models.base.read(slot.base) if slot.base is not None else None
    if not slot.inputs:
        if base is None:
            raise CandidateError(f"{slot.name}: neither the base nor a source of the recipe has it")
        merged = base.float()  # R8 (c): only the base has it
    else:
        sources = [_source(slot, source, models, base) for source in slot.inputs]
        uniforms = _uniforms(step, plan) if plan.operator.random else None
        # a pair of sources that one of them lacks is the other's tensor, not a pair with the base
        of_sources = plan.operator.on == "pair" and len(models.sources) == 2
        merged = combine(
            plan.operator,
            None if of_sources else base,
            sources,
            per_source=step.per_source,
            shared=step.shared,
            uniforms=uniforms,
        )
    result = merged.to(step.dtype)
    if not all_finite(result):
        raise _diagnosis(step, plan)
    return result


def _source(slot: Slot, source: str, models: Models, base: Tensor | None) -> Tensor:
    tensor = models.sources[source].read(slot.inputs[source])
    rows = models.row_maps[source] if slot.aligned else None
    return tensor if rows is None or base is None else align(tensor, base, rows)


def _owners(slot: Slot, models: Models) -> Iterator[tuple[str, Checkpoint, str]]:
    """Who has the tensor, base first: name, checkpoint, and what it calls the tensor."""
    if slot.base is not None:
        yield "base", models.base, slot.base
    for source, tensor in slot.inputs.items():
        yield source, models.sources[source], tensor


def _copy(slot: Slot, models: Models) -> Tensor:
    """A tensor that is not floating point: the base's, if nobody disagrees (rule R8)."""
    (first, checkpoint, tensor), *others = _owners(slot, models)
    value = checkpoint.read(tensor)
    for name, other, theirs in others:
        found = other.read(theirs)
        if found.dtype != value.dtype or not torch.equal(value, found):
            raise PlanError(
                f"{slot.name}: not floating point, so it cannot be merged, and it differs in "
                f"{first} and {name}. Drop one of them."
            )
    return value


def _uniforms(step: Step, plan: Plan) -> Tensor:
    """(M, *shape) float32 in [0, 1) that depend on seed, tensor and source alone."""
    size = math.prod(step.slot.shape)
    rows = []
    for source in step.slot.inputs:
        blocks = []
        for block in range(math.ceil(size / _BLOCK)):
            key = f"{plan.recipe.seed}\0{step.slot.key}\0{source}\0{block}"
            digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
            count = min(_BLOCK, size - block * _BLOCK)
            blocks.append(torch.rand(count, generator=generator))
        rows.append(torch.cat(blocks).view(step.slot.shape))
    return torch.stack(rows)


def _diagnosis(step: Step, plan: Plan) -> CandidateError | CheckpointError:
    """Whose fault a non-finite tensor is: a damaged file, or the recipe."""
    found = [
        checkpoint.non_finite_in(tensor)
        for _, checkpoint, tensor in _owners(step.slot, plan.models)
    ]
    problems = [sentence for sentence in found if sentence is not None]
    if problems:
        return CheckpointError(dict.fromkeys(problems))
    return CandidateError(
        f"{step.slot.name}: {plan.operator.name} gave values that {plan.recipe.dtype} cannot hold"
    )
