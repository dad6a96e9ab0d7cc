"""The merged tensors that a vLLM worker loads, merged while it loads."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Full, Queue
from threading import Event, Thread

import torch
from torch import Tensor

from evomerge.weights.merge import Out, merge, merge_into
from evomerge.weights.models import Models
from evomerge.weights.plan import Plan
from evomerge.weights.steps import Step

_AHEAD = 4  # merged tensors that may wait for vLLM


class TensorStream:
    """The merged tensors in the order of the plan, and zeros where it has none.

    Zeros in every tensor of a block make it the identity of a residual network. Zeros also take
    the place of what could not be merged: vLLM cannot break off a reload.

    Attributes:
        error: what the merge failed with; None if it did not.
        last: name of the tensor handed out last; empty before the first.
    """

    def __init__(self, plan: Plan, live: Models, device: torch.device) -> None:
        self.plan, self.live, self.device = plan, live, device
        self.error: Exception | None = None
        self.last = ""

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        remaining = {step.slot.name: step for step in self.plan.steps}
        try:
            # on a CPU vLLM packs with all threads, and those that share cores wait for one another
            in_turn = self.device.type == "cpu"
            for name, value in merge(self.plan) if in_turn else _ahead(self.plan, self.device):
                self.last = name
                yield name, value
                del remaining[name]
        except Exception as error:
            self.error = error
        for name, step in remaining.items():
            yield name, torch.zeros(step.slot.shape, dtype=step.dtype)
        planned = {step.slot.name for step in self.plan.steps}
        dtype: torch.dtype = getattr(torch, self.plan.recipe.dtype)
        for slot in self.live.slots:
            if slot.name not in planned:
                yield slot.name, torch.zeros(slot.shape, dtype=dtype)


def _ahead(plan: Plan, device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Name and value of every merged tensor, in any order; the next while vLLM loads one."""
    ready: Queue[tuple[str, Tensor] | Exception | None] = Queue(_AHEAD)
    given_up = Event()

    def put(item: tuple[str, Tensor] | Exception | None) -> None:
        while not given_up.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except Full:
                continue
        raise _GivenUpError

    def into(step: Step) -> Out:
        tensor = torch.empty(step.slot.shape, dtype=step.dtype, device=device)
        flat, size = tensor.view(-1), tensor.numel()

        def out(start: int, values: Tensor) -> None:
            flat[start : start + values.numel()].copy_(values)
            if start + values.numel() == size:
                put((step.slot.name, tensor))

        return out

    def work() -> None:
        try:
            merge_into(plan, into, device)
            put(None)
        except _GivenUpError:
            pass
        except Exception as error:
            put(error)

    thread = Thread(target=work, name="evomerge-merge", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        given_up.set()
        thread.join()


class _GivenUpError(Exception):
    """Ends the merge: vLLM takes no more tensors."""
