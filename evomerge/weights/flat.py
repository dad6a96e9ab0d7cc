"""Whole models in memory as one row of elements each, in canonical order."""

from __future__ import annotations

from torch import Tensor, cat

from evomerge.kernels.stack import Stack
from evomerge.recipes.layout import Layout
from evomerge.weights.models import Models


def flat_sources(
    models: Models, layout: Layout, *, task_vectors: bool = False
) -> dict[str, Tensor]:
    """Source to its (N,) elements, float32.

    Args:
        models: the sources, and the base.
        layout: of their tensors.
        task_vectors: elements of source minus base.
    """
    slots = {slot.name: slot for slot in models.slots}
    parts: dict[str, list[Tensor]] = {name: [] for name in models.sources}
    for name in layout.names:
        slot = slots[name]
        stack = Stack(
            [models.input(slot, source) for source in models.sources],
            models.base_input(slot) if task_vectors else None,
            deltas=task_vectors,
            name=name,
        )
        for source, values in zip(models.sources, stack.whole(), strict=True):
            parts[source].append(values.reshape(-1))
    return {name: cat(of_source) for name, of_source in parts.items()}
