"""Whether a live model of some depth can hold a plan of the same depth or less."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.errors import PlanError
from evomerge.weights.models import Models
from evomerge.weights.names import DEPTH_KEYS
from evomerge.weights.plan import Plan
from evomerge.weights.skeleton import merged_config


def demand_same_architecture(plan: Plan, live: Models) -> None:
    """Raise unless the plan's tensors are those of the live model, or of its first blocks.

    A block all of whose tensors are zero adds nothing to the residual stream: it is the identity.

    Raises:
        PlanError: other tensors, or the first blocks are of another kind.
    """
    depth = plan.models.layers
    planned = {step.slot.name for step in plan.steps}
    beyond = {slot.name for slot in live.slots if (slot.place.layer or 0) >= max(depth, 1)}
    wanted = {slot.name for slot in live.slots} - beyond
    if planned != wanted:
        stray = sorted(planned ^ wanted)
        raise PlanError(
            f"the plan and the open models differ in {len(stray)} tensors, {stray[0]} first. "
            "Plan the recipe for the models that the engine was opened with."
        )
    if plan.models.composition == live.composition:
        return
    own, open_ = (merged_config(models, "float32") for models in (plan.models, live))
    if other := sorted(_differing(own, open_, depth)):
        raise PlanError(
            f"the plan and the open models differ in {', '.join(other)} of their configs. "
            "Open an engine for these models."
        )


def _differing(own: Mapping[str, Any], live: Mapping[str, Any], depth: int) -> set[str]:
    """Keys whose values differ by more than the blocks that are left out at the end."""
    found = set()
    for key in own.keys() | live.keys():
        mine, theirs = own.get(key), live.get(key)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            found |= _differing(mine, theirs, depth)
        elif isinstance(mine, list) and isinstance(theirs, list) and len(mine) == depth:
            found |= {key} if theirs[:depth] != mine else set()
        elif mine != theirs and key not in DEPTH_KEYS:
            found.add(key)
    return found
