"""Compiled loops over the memory of tensors: one pass where torch takes one for each operation.

A loop gives the bits of the torch operations that it stands for. On a GPU these are used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from evomerge.kernels.loops import LANES, compiled

__all__ = ["BLOCK", "LANES", "NOTHING", "array", "as_bits", "as_float", "compiled", "fits", "rows"]

BLOCK = 512  # elements that a loop with several passes holds in the innermost cache
NOTHING = np.empty(0, np.float32)  # for an argument that is not given


def fits(*tensors: Tensor) -> bool:
    """Whether compiled loops can work on the tensors."""
    return all(t.device.type == "cpu" and t.is_contiguous() and not t.is_neg() for t in tensors)


def array(values: Tensor) -> Any:
    """The tensor's own memory for a compiled loop; bfloat16 as its bits, uint16."""
    if values.dtype == torch.bfloat16:
        values = values.view(torch.uint16)
    return values.numpy()


def rows(values_M: Tensor) -> Any:
    """The same as (M, n)."""
    return array(values_M.view(len(values_M), -1))


@intrinsic  # type: ignore[untyped-decorator]
def as_float(context: Any, bits: Any) -> Any:
    """The float32 that 32 bits are."""
    return types.float32(types.uint32), _bitcast


@intrinsic  # type: ignore[untyped-decorator]
def as_bits(context: Any, value: Any) -> Any:
    """The 32 bits of a float32."""
    return types.uint32(types.float32), _bitcast


def _bitcast(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    return builder.bitcast(values[0], context.get_value_type(signature.return_type))
