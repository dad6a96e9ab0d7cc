"""Tensors that are one in memory, for Transformers ties them, under whichever names files have."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evomerge.weights.architecture.arrays import Array, Leaf
from evomerge.weights.checkpoint import Checkpoint

if TYPE_CHECKING:
    from evomerge.weights.architecture.loading import Loaded


def tied(module: Any, model: Checkpoint, found: Loaded) -> Loaded:
    """With one tensor under all names that Transformers ties, however few of them files have.

    Those that files have with other values are not tied, whatever the config says.

    Args:
        module: the model without weights.
        model: whose tensors were found.
    """
    arrays = dict(found.arrays)
    of_one: dict[str, list[str]] = defaultdict(list)
    for copy, original in module.all_tied_weights_keys.items():
        of_one[original].append(copy)
    for original, copies in of_one.items():
        names = [original, *copies]
        stored = [name for name in names if name in arrays]
        for name in names if stored else ():
            one = arrays[stored[0]]
            if name not in arrays or _same_values(model, arrays[name], one):
                arrays[name] = one
    return replace(found, arrays=arrays)


def _same_values(model: Checkpoint, array: Array, other: Array) -> bool:
    if array is other:
        return True
    if not (isinstance(array, Leaf) and isinstance(other, Leaf)) or array.shape != other.shape:
        return False
    return model.read(array.name).equal(model.read(other.name))
