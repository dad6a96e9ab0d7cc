"""Another weighted sum on every stretch of whole models in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from evomerge.kernels.compiled import array, compiled


def piecewise_sum(sources: Sequence[Tensor], ends: ArrayLike, rows: ArrayLike) -> Tensor:
    """Σ_k C[s, k] θ_k on every stretch s, to the bit what the operator `segments` gives.

    Args:
        sources: (K,) of (N,) float32, on the CPU.
        ends: (S,) the elements at which stretches end, ascending to N.
        rows: (S, K).

    Returns:
        (N,) float32.
    """
    values_KN = torch.stack(list(sources))
    _sum(array(values_KN), np.array(ends, np.int64), np.array(rows, np.float32, order="C"))
    return values_KN[0]


@compiled
def _sum(values_KN: Any, ends: Any, rows: Any) -> None:
    """Into the first row."""
    low = 0
    for number in range(ends.size):
        high, weight = ends[number], rows[number]
        total = values_KN[0, low:high]
        for j in range(total.size):
            total[j] *= weight[0]
        for k in range(1, weight.size):
            values = values_KN[k, low:high]
            for j in range(total.size):
                total[j] += values[j] * weight[k]
        low = high
