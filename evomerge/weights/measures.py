"""What can be measured of a model without asking it anything."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

from evomerge.kernels.stack import stretch
from evomerge.weights.merge import Out, merge_into
from evomerge.weights.plan import Plan
from evomerge.weights.steps import Step


def measures(plan: Plan, wanted: Collection[str]) -> dict[str, float]:
    """Some of these, by name.

    - ``layers``: blocks of the merged model.
    - ``parameters``: elements of its weights; a tensor that is tied to another counts once.
    - ``distance``: the length of its task vector relative to that of the base's weights, over all
      tensors that the base has. It takes one more merge.

    Args:
        plan: how the model is made.

    Raises:
        CheckpointError, CandidateError: as `merge_into`.
    """
    of = {"layers": _layers, "parameters": _parameters, "distance": _distance}
    return {name: of[name](plan) for name in of if name in wanted}


def _layers(plan: Plan) -> float:
    return float(plan.models.layers)


def _parameters(plan: Plan) -> float:
    return float(sum(math.prod(step.slot.shape) for step in plan.steps if step.slot.floating))


def _distance(plan: Plan) -> float:
    sums: dict[str, list[float]] = {}  # by tensor, squared: of the difference, of the base

    def out(step: Step) -> Out:
        base = plan.models.base_input(step.slot) if step.slot.floating else None
        added = sums.setdefault(step.slot.name, [0.0, 0.0])

        def add(start: int, values: Tensor) -> None:
            if base is None:
                return
            mine = values.to("cpu", torch.float64)
            theirs = stretch(base, start, start + len(mine)).to("cpu", torch.float64)
            added[0] += float((mine - theirs).square().sum())
            added[1] += float(theirs.square().sum())

        return add

    merge_into(plan, out)
    # in one order, whichever tensor was done first
    moved, whole = (math.fsum(sums[name][part] for name in sorted(sums)) for part in (0, 1))
    return math.sqrt(moved / whole) if whole else 0.0
