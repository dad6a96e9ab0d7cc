"""Carries out a plan: tile by tile in float32, with one cast at the end."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from dataclasses import replace
from functools import cached_property, partial

import torch
from torch import Tensor

from evomerge.errors import CandidateError, CheckpointError, PlanError
from evomerge.kernels.passes import all_finite, rounded
from evomerge.kernels.stack import TILE, Input, NotFiniteError, Stack, stretch
from evomerge.kernels.threads import on_one_thread, pool
from evomerge.operators import Settings, combine
from evomerge.weights.models import Models
from evomerge.weights.plan import Plan
from evomerge.weights.slots import Slot
from evomerge.weights.steps import Step

Out = Callable[[int, Tensor], None]
_CPU = torch.device("cpu")
_SMALL_BYTES = 1 << 22  # one thread merges less than this faster than several do
_BATCH_BYTES = 1 << 27  # merged before the first tensor is handed out


def merge_into(plan: Plan, out: Callable[[Step], Out], device: torch.device = _CPU) -> None:
    """Merge every tensor, several at a time.

    The values do not depend on the number of threads.

    Args:
        plan: what to merge.
        out: for each tensor a function that takes a stretch of it: the flat index of the first
            element, and the elements, (n,) in the step's dtype on ``device``, which it must not
            keep. Stretches of one tensor come in order, tensors in any order and from several
            threads.
        device: where the arithmetic is done.

    Raises:
        CheckpointError: a source holds NaN or infinities; names file and tensor.
        PlanError: a tensor that is not floating point differs between the models.
        CandidateError: a merged tensor is not finite though its inputs are.
    """
    _carry_out(_Merger(plan, device), plan.steps, out)


def _carry_out(merger: _Merger, steps: Sequence[Step], out: Callable[[Step], Out]) -> None:
    threads = torch.get_num_threads()
    small = sum(step.nbytes for step in steps) < _SMALL_BYTES
    count = 1 if merger.device.type != "cpu" or small else threads
    if threads == 1:
        merger.carry_out_all(steps, out)
        return
    workers = pool(count)
    pending: list[Future[None]] = []
    try:
        if count == 1:
            pending.append(workers.submit(merger.carry_out_all, steps, out))
        else:
            # the largest first, so that the others need not wait for them in the end
            for step in sorted(steps, key=lambda step: -step.nbytes):
                pending.append(workers.submit(merger.carry_out, step, out(step)))  # noqa: PERF401
        wait(pending, return_when=FIRST_EXCEPTION)
        failed = (f.exception() for f in pending if f.done() and not f.cancelled())
        if error := next((e for e in failed if e is not None), None):
            raise error
    except BaseException:
        merger.stopped.set()
        for future in pending:
            future.cancel()
        wait(pending)
        raise


def merge(plan: Plan) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every tensor of the merged model, in the plan's order.

    About 128 MiB are merged at a time, and nothing while the caller uses them, so that it has all
    threads to itself.

    Raises:
        CheckpointError, PlanError, CandidateError: as `merge_into`.
    """
    merger = _Merger(plan, _CPU)
    for steps in _batches(plan.steps):
        merged = {step.slot.name: torch.empty(step.slot.shape, dtype=step.dtype) for step in steps}
        _carry_out(merger, steps, partial(_into, merged))
        while merged:  # keeps nothing that was handed out
            name = next(iter(merged))
            yield name, merged.pop(name)


def _batches(steps: Sequence[Step]) -> Iterator[list[Step]]:
    """The steps in order, in batches of `_BATCH_BYTES` or one step more."""
    batch: list[Step] = []
    for step in steps:
        batch.append(step)
        if sum(step.nbytes for step in batch) >= _BATCH_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


def merge_one(plan: Plan, step: Step) -> Tensor:
    """One tensor of the merged model.

    Raises:
        CheckpointError, PlanError, CandidateError: as `merge_into`.
    """
    merged = torch.empty(step.slot.shape, dtype=step.dtype)
    on_one_thread(
        lambda: _Merger(plan, _CPU).carry_out(step, _into({step.slot.name: merged}, step))
    )
    return merged


def _into(merged: Mapping[str, Tensor], step: Step) -> Out:
    flat = merged[step.slot.name].view(-1)

    def out(start: int, values: Tensor) -> None:
        flat[start : start + values.numel()] = values

    return out


class _Merger:
    """Carries out the steps of one plan."""

    def __init__(self, plan: Plan, device: torch.device) -> None:
        self.plan, self.device = plan, device
        self.stopped = threading.Event()

    def carry_out_all(self, steps: Sequence[Step], out: Callable[[Step], Out]) -> None:
        for step in steps:
            self.carry_out(step, out(step))

    def carry_out(self, step: Step, out: Out) -> None:
        if not step.slot.floating:
            value = _agreed(step.slot, self.plan.models)
            self._hand_out(value, step, out)
        elif not step.slot.inputs:
            # only the base has it (rule R8), or the recipe does not merge it
            base = self.plan.models.base_input(step.slot)
            if base is None:
                name = step.slot.name
                raise CandidateError(f"{name}: neither the base nor a source of the recipe has it")
            self._hand_out(base, step, out)
        else:
            self._merge(step, out)

    def _hand_out(self, value: Input, step: Step, out: Out) -> None:
        """Give out a tensor that is not merged, only folded and cast."""
        size = math.prod(step.slot.shape)
        for start in range(0, size, TILE):
            part = stretch(value, start, min(start + TILE, size)).to(self.device)
            if step.is_folded:
                part = _folded(part.to(torch.float32, copy=True), step)
            result = part.to(step.dtype)
            if result.is_floating_point() and not all_finite(result):
                raise _diagnosis(step, self.plan)
            out(start, result)

    def _merge(self, step: Step, out: Out) -> None:
        stack = self.stack(step)

        def cast(start: int, values: Tensor) -> None:
            if self.stopped.is_set():
                raise _StoppedError
            if step.is_folded:
                values = _folded(values, step)
            result, finite = rounded(values, step.dtype)
            if not finite:
                raise _diagnosis(step, self.plan)
            out(start, result)

        settings = Settings(step.per_source, step.shared)
        try:
            combine(self.plan.operator, stack, settings, cast)
        except NotFiniteError as error:
            # an operator of global scope reads all tensors before it merges the first
            steps = [s for s in self.plan.steps if s.slot.key == error.name and s.slot.inputs]
            raise _diagnosis(next(iter(steps), step), self.plan) from None
        stack.cache["finite", stack.identity] = True

    def stack(self, step: Step) -> Stack:
        slot, models = step.slot, self.plan.models
        # of two sources that are a pair, one that lacks the tensor is not replaced by the base
        present = len(slot.inputs) + len(slot.lacking)
        of_sources = self.plan.operator.on == "pair" and present == 2
        owners = [id(owner) for _, owner, _ in models.owners(slot)]
        recorded = [self.plan.recipe.statistics.get(source) for source in slot.inputs]
        identity = (of_sources, *owners, *recorded)
        known = models.known.setdefault(slot.name, {})
        return Stack(
            [models.input(slot, source) for source in slot.inputs],
            None if of_sources else models.base_input(slot),
            name=slot.key,
            labels=tuple(slot.inputs),
            role=slot.place.role,
            depth=_depth(slot, models.layers),
            statistics=self.plan.statistics_of(slot),
            seed=self.plan.recipe.seed,
            device=self.device,
            cache=known,
            identity=identity,
            checked=("finite", identity) in known,
            model=lambda: self._model,
            model_cache=models.known.setdefault("", {}),
            pieces=step.pieces,
            lineage=self.plan.recipe.lineage,
            offset=step.offset,
        )

    @cached_property
    def _model(self) -> list[Stack]:
        """The task vectors of every tensor that the operator merges."""
        stacks = [self.stack(step) for step in self.plan.steps if step.slot.inputs]
        return [replace(stack, deltas=True) for stack in stacks if stack.base is not None]


def _folded(values: Tensor, step: Step) -> Tensor:
    """(n,) float32, with the recipe's scales folded in, in place."""
    return values.mul_(step.fold.factor).add_(step.fold.offset)


class _StoppedError(Exception):
    """Another tensor failed, or the user interrupted."""


def _depth(slot: Slot, blocks: int) -> float | None:
    """0 in the first block, 1 in the last (and in a single one); None outside the blocks."""
    layer = slot.place.layer
    return layer if layer is None else layer / (blocks - 1) if blocks > 1 else 1.0


def _agreed(slot: Slot, models: Models) -> Tensor:
    """A tensor that is not floating point: the base's, if all models agree (rule R8)."""
    (first, checkpoint, tensor), *others = models.owners(slot)
    value = checkpoint.read(tensor)
    if slot.name.endswith("num_batches_tracked"):  # of batch norms; only training reads it
        return value
    for name, other, theirs in others:
        other_value = other.read(theirs)
        if other_value.dtype != value.dtype or not torch.equal(value, other_value):
            raise PlanError(
                f"{slot.name}: not floating point, so it cannot be merged, and it differs in "
                f"{first} and {name}. Drop one of them."
            )
    return value


def _diagnosis(step: Step, plan: Plan) -> CandidateError | CheckpointError:
    """The error for a tensor that is not finite: a damaged file is to blame, or the recipe."""
    if problems := plan.models.non_finite_in(step.slot):
        return CheckpointError(problems)
    return CandidateError(
        f"{step.slot.name}: {plan.operator.name} gave values that {plan.recipe.dtype} cannot hold"
    )
