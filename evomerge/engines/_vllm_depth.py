"""Plans of fewer blocks than a live vLLM model has: whether they fit, and how they are computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from evomerge.engines._architecture import require_same_tensors
from evomerge.errors import PlanError
from evomerge.weights.metadata import merged_config
from evomerge.weights.names import DEPTH_KEYS

if TYPE_CHECKING:
    from torch import nn

    from evomerge.weights.models import Models
    from evomerge.weights.plan import Plan


def has_the_blocks(plan: Plan, live: Models) -> bool:
    """Whether the plan has as many blocks as the live model or fewer, of the same kinds.

    A kind is what a config says of each block, as where sliding and full attention alternate.
    """
    depth = plan.models.layers
    if depth > live.layers:
        return False
    differences = _differences(plan, live).values()
    return not any(isinstance(value, list) and len(value) == depth for value in differences)


def require_same_architecture(plan: Plan, live: Models) -> None:
    """Raise unless the plan's tensors are those of the live model, or of its first blocks.

    A block all of whose tensors are zero adds nothing to the residual stream: it is the identity.

    Raises:
        PlanError: other tensors, or the configs differ.
    """
    depth = plan.models.layers
    beyond = {slot.name for slot in live.slots if (slot.place.layer or 0) >= max(depth, 1)}
    require_same_tensors(plan, {slot.name for slot in live.slots} - beyond)
    if other := sorted(_differences(plan, live)):
        raise PlanError(
            f"the plan and the open models differ in {', '.join(other)} of their configs. "
            "Open an engine for these models."
        )


def _differences(plan: Plan, live: Models) -> dict[str, Any]:
    """Keys of the plan's config that differ from the live model's, but for the number of blocks."""
    if plan.models.composition == live.composition:
        return {}
    own, open_ = (merged_config(models, "float32") for models in (plan.models, live))
    return dict(_differing(own, open_, plan.models.layers))


def _differing(
    own: Mapping[str, Any], live: Mapping[str, Any], depth: int
) -> Iterator[tuple[str, Any]]:
    """Keys and own values that differ by more than the blocks that are left out at the end."""
    for key in own.keys() | live.keys():
        mine, theirs = own.get(key), live.get(key)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            yield from _differing(mine, theirs, depth)
        elif isinstance(mine, list) and isinstance(theirs, list) and len(mine) == depth:
            if theirs[:depth] != mine:
                yield key, mine
        elif mine != theirs and key not in DEPTH_KEYS:
            yield key, mine


class DepthSwitch:
    """Ends the forward pass of a vLLM model after its first blocks.

    vLLM's models run their blocks from ``start_layer`` to ``end_layer``, for each rank of a
    pipeline its own. Where a model has no such numbers, or is a part of a pipeline, all blocks are
    computed; those that a plan lacks are zero, and so the identity.

    Args:
        model: as vLLM runs it.
        blocks: in its whole stack.
    """

    def __init__(self, model: nn.Module, blocks: int) -> None:
        whole = [module for module in model.modules() if _runs(module, blocks)]
        self._stack: Any = whole[0] if len(whole) == 1 else None

    def set(self, blocks: int) -> None:
        """Compute the first blocks only."""
        if self._stack is not None:
            self._stack.end_layer = blocks


def _runs(module: nn.Module, blocks: int) -> bool:
    """Whether a module runs a stack of that many blocks, from the first to the last."""
    from torch import nn

    ends = (getattr(module, "start_layer", None), getattr(module, "end_layer", None))
    stacks = [child for child in module.children() if isinstance(child, nn.ModuleList)]
    return ends == (0, blocks) and any(len(stack) == blocks for stack in stacks)
