"""What every tile goes through: read as float32, base added, rounded to the output's dtype."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.compiled import NOTHING, array, as_bits, as_float, compiled, fits
from evomerge.kernels.memory import fill, scratch

_EXPONENT = np.uint32(0x7F800000)


def read(values: Tensor, base: Tensor | None, out: Tensor) -> bool:
    """Write the values, minus the base, to ``out``.

    Args:
        values: (n,) of any float dtype.
        base: (n,) float32.
        out: (n,) float32, perhaps on a GPU.

    Returns:
        whether all of ``out`` is finite.
    """
    if not fits(out):
        fill(out, values)
        if base is not None:
            out -= base
        return all_finite(out)
    if values.dtype == torch.bfloat16 and fits(values):
        _widen(array(values), array(out))
    else:
        out.copy_(values)
    return not _subtract(array(out), NOTHING if base is None else array(base))


def added(base: Tensor, values: Tensor) -> Tensor:
    """Base + values, written over the base; where a value is zero its -0.0 stays (rule R6)."""
    if fits(base, values):
        _add(array(base.view(-1)), array(values.view(-1)))
        return base
    return torch.where(values == 0, base, base + values)


def rounded(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, bool]:
    """The values rounded to a dtype, and whether all are finite.

    Args:
        values: (n,) float32.

    Returns:
        (n,), which the next call in this thread may overwrite.
    """
    if dtype == torch.bfloat16 and fits(values):
        result = scratch("rounded", values).view(torch.bfloat16)[: values.numel()]
        return result, not _round(array(values), array(result))
    result = values.to(dtype)
    return result, all_finite(result)


def all_finite(tensor: Tensor) -> bool:
    """Whether no element is a NaN or an infinity."""
    # a NaN or an infinity makes the sum one; large finite numbers may overflow
    total = float(tensor.sum())
    return math.isfinite(total) or bool(torch.isfinite(tensor).all())


@compiled
def _widen(values: Any, out: Any) -> None:
    """A bfloat16 holds the upper 16 bits of a float32."""
    for j in range(out.size):
        out[j] = as_float(np.uint32(values[j]) << np.uint32(16))


@compiled
def _subtract(values: Any, base: Any) -> Any:
    """Subtract the base, if it is not empty; whether any result is not finite."""
    bad = np.uint32(0)
    if base.size:
        for j in range(values.size):
            value = values[j] - base[j]
            values[j] = value
            bad |= np.uint32(as_bits(value) & _EXPONENT == _EXPONENT)
    else:
        for j in range(values.size):
            bad |= np.uint32(as_bits(values[j]) & _EXPONENT == _EXPONENT)
    return bad != 0


@compiled
def _add(base: Any, values: Any) -> None:
    for j in range(base.size):
        base[j] = base[j] if values[j] == 0 else base[j] + values[j]


@compiled
def _round(values: Any, out: Any) -> Any:
    """Round to the nearest bfloat16, ties to even; whether any result is not finite."""
    bad = np.uint32(0)
    for j in range(values.size):
        bits = as_bits(values[j])
        bad |= np.uint32(bits & _EXPONENT == _EXPONENT)
        bits += np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        out[j] = np.uint16(bits >> np.uint32(16))
        bad |= np.uint32(bits & _EXPONENT == _EXPONENT)
    return bad != 0
