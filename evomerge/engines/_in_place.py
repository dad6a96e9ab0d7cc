"""A plan merged straight into live tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from evomerge.engines._architecture import require_same_tensors
from evomerge.weights.merge import Out, merge_into
from evomerge.weights.plan import Plan, Step


def fill(targets: Mapping[str, Tensor], plan: Plan, device: torch.device) -> None:
    """Merge a plan into tensors that exist already.

    Args:
        targets: contiguous, by the names of the plan; all are overwritten.
        device: where the arithmetic is done.

    Raises:
        PlanError: the plan has other tensors.
        CandidateError, CheckpointError: as `merge_into`.
    """
    require_same_tensors(plan, targets.keys())

    def into(step: Step) -> Out:
        target = targets[step.slot.name].view(-1)

        def out(start: int, values: Tensor) -> None:
            target[start : start + values.numel()].copy_(values)

        return out

    merge_into(plan, into, device)
