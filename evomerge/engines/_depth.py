"""Whether a live model of some depth can hold a plan of the same depth or less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from evomerge.errors import PlanError
from evomerge.weights.metadata import merged_config
from evomerge.weights.models import Models
from evomerge.weights.names import DEPTH_KEYS
from evomerge.weights.plan import Plan


def has_the_blocks(plan: Plan, live: Models) -> bool:
    """Whether the plan has as many blocks as the live model or fewer, of the same kinds.

    A kind is what a config says of each block, as where sliding and full attention alternate.
    """
    depth = plan.models.layers
    if depth > live.layers:
        return False
    differences = _differences(plan, live).values()
    return not any(isinstance(said, list) and len(said) == depth for said in differences)


def require_same_architecture(plan: Plan, live: Models) -> None:
    """Raise unless the plan's tensors are those of the live model, or of its first blocks.

    A block all of whose tensors are zero adds nothing to the residual stream: it is the identity.

    Raises:
        PlanError: other tensors, or the configs differ.
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
    if other := sorted(_differences(plan, live)):
        raise PlanError(
            f"the plan and the open models differ in {', '.join(other)} of their configs. "
            "Open an engine for these models."
        )


def _differences(plan: Plan, live: Models) -> dict[str, Any]:
    """What the plan's config says otherwise than the live model's, but for the number of blocks."""
    if plan.models.composition == live.composition:
        return {}
    own, open_ = (merged_config(models, "float32") for models in (plan.models, live))
    return dict(_differing(own, open_, plan.models.layers))


def _differing(
    own: Mapping[str, Any], live: Mapping[str, Any], depth: int
) -> Iterator[tuple[str, Any]]:
    """Keys whose values differ by more than the blocks that are left out at the end."""
    for key in own.keys() | live.keys():
        mine, theirs = own.get(key), live.get(key)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            yield from _differing(mine, theirs, depth)
        elif isinstance(mine, list) and isinstance(theirs, list) and len(mine) == depth:
            if theirs[:depth] != mine:
                yield key, mine
        elif mine != theirs and key not in DEPTH_KEYS:
            yield key, mine
