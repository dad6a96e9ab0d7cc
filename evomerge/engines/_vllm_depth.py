"""How many blocks of a live vLLM model are computed."""

from __future__ import annotations

from typing import Any

from torch import nn


class Depth:
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
    """Whether a module runs a stack of so many blocks, from the first to the last."""
    ends = (getattr(module, "start_layer", None), getattr(module, "end_layer", None))
    stacks = [child for child in module.children() if isinstance(child, nn.ModuleList)]
    return ends == (0, blocks) and any(len(stack) == blocks for stack in stacks)
