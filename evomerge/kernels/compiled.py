"""Compiled loops over the memory of CPU tensors: one pass where torch takes one per operation.

A loop gives the same bits as the torch operations that it replaces, which are used on a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from evomerge.kernels.loops import SIMD_LANES as SIMD_LANES
from evomerge.kernels.loops import compiled as compiled

BLOCK = 512  # elements that a loop with several passes works on at a time: they fit the L1 cache
NOTHING = np.empty(0, np.float32)  # stands for an array argument that is None


def fits(*tensors: Tensor) -> bool:
    """Whether compiled loops can work on the tensors: contiguous, on a CPU."""
    return all(t.device.type == "cpu" and t.is_contiguous() and not t.is_neg() for t in tensors)


def array(values: Tensor) -> Any:
    """The tensor's memory as a NumPy array, not copied; bfloat16 as its bits, uint16."""
    if values.dtype == torch.bfloat16:
        values = values.view(torch.uint16)
    return values.numpy()


def rows(values_M: Tensor) -> Any:
    """(M, n): the memory of an (M, ...) tensor, not copied."""
    return array(values_M.view(len(values_M), -1))


@intrinsic  # type: ignore[untyped-decorator]
def as_float(context: Any, bits: Any) -> Any:
    """The float32 with these 32 bits."""
    return types.float32(types.uint32), _bitcast


@intrinsic  # type: ignore[untyped-decorator]
def as_bits(context: Any, value: Any) -> Any:
    """The 32 bits of a float32, uint32."""
    return types.uint32(types.float32), _bitcast


def _bitcast(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    return builder.bitcast(values[0], context.get_value_type(signature.return_type))
