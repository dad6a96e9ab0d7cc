"""One tensor of a plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evomerge.weights.slots import Slot
from evomerge.weights.stacks.folding import Fold

if TYPE_CHECKING:
    import torch

Pieces = tuple[tuple[int, tuple[float, ...]], ...]
NO_FOLD = Fold(1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How one tensor of the merged model is made.

    Attributes:
        slot: name, shape, place and inputs.
        dtype: of the result.
        per_source: parameter to its values, one for each source in ``slot.inputs``.
        shared: the operator's other parameters.
        pieces: of a recipe with segments: where each piece of the tensor ends, and the weights of
            the sources on it.
        fold: applied to the merged values just before they are rounded.
        offset: of a recipe with a lineage: position of the tensor's first element among all.
    """

    slot: Slot
    dtype: torch.dtype
    per_source: Mapping[str, tuple[float, ...]]
    shared: Mapping[str, Any]
    pieces: Pieces = ()
    fold: Fold = NO_FOLD
    offset: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the result."""
        return math.prod(self.slot.shape) * self.dtype.itemsize

    @property
    def is_folded(self) -> bool:
        """Whether `fold` changes anything."""
        return self.fold != NO_FOLD and self.slot.floating
