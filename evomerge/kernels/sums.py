"""Weighted sums, the most frequent result: read, weighted and added up while still in the cache.

A tile of float32 for each source goes through memory several times, and costs more than the sum.
Where all tensors are bfloat16 in a CPU's memory, one compiled loop takes their elements straight
into the sum, with the bits of the kernel that everything else uses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numba import types
from numba.extending import intrinsic
from torch import Tensor

from evomerge.kernels.compiled import BLOCK, array, as_bits, as_float, compiled, fits
from evomerge.kernels.consensus import divided, scaled, weighted_sum
from evomerge.kernels.memory import buffer
from evomerge.kernels.stack import NotFiniteError, Stack, Tile, Tiles

_EXPONENT = np.uint32(0x7F800000)
_HALF = np.uint32(16)


def weighted(
    x: Stack, weight: Sequence[float], *, factor: float = 1.0, divisor: float = 1.0
) -> Tiles:
    """(Σ w_i x_i) · factor / divisor.

    Args:
        x: M tensors.
        weight: (M,) any sign.
        factor, divisor: 1 changes no bit.
    """

    def kernel(tile: Tile) -> Tensor:
        total = scaled(weighted_sum(tile.values, weight), factor)
        return total if divisor == 1 else divided(total, divisor)

    return replace(x.each(kernel), at_once=_at_once(x, weight, factor, divisor))


def _at_once(
    x: Stack, weight: Sequence[float], factor: float, divisor: float
) -> Callable[[int, int, float], Tensor] | None:
    """What gives a stretch of the result without a tile; None where the kernel must."""
    base = [x.base] if x.deltas else []
    plain = [t for t in (*x.inputs, *base) if isinstance(t, Tensor) and t.dtype == torch.bfloat16]
    lacks_some = len(plain) < x.count + len(base) or not fits(*plain)
    if x.changes or x.by_row or x.device.type != "cpu" or lacks_some:
        return None
    sources_M = np.array([tensor.data_ptr() for tensor in plain[: x.count]], np.uint64)
    base_address = np.uint64(plain[-1].data_ptr())
    with np.errstate(over="ignore"):  # an infinite weight is told of where its sum is stored
        weight_M = np.array(weight, np.float32)
        factors = np.array([factor, divisor, 1], np.float32)

    def stretch(start: int, stop: int, again: float) -> Tensor:
        total = buffer("sum", (1, stop - start), x.device)[0]
        scales = factors.copy()
        scales[2] = again
        places = (sources_M, base_address, np.int64(start))
        bad = _sum(*places, weight_M, scales, x.deltas, array(total))
        if bad and not x.checked:
            raise NotFiniteError(x.name)
        return total

    return stretch


@intrinsic  # type: ignore[untyped-decorator]
def _halves_at(context: Any, address: Any) -> Any:
    """The elements of 16 bits that begin at an address."""

    def pointer(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint16)(types.uint64), pointer


@compiled
def _sum(
    sources_M: Any, base: Any, offset: Any, weight: Any, scales: Any, deltas: bool, out: Any
) -> Any:
    """The result from an offset on; whether a value that is weighted is not finite."""
    bases = np.zeros(BLOCK, np.float32)
    bad = np.uint32(0)
    for start in range(0, out.size, BLOCK):
        total = out[start : min(start + BLOCK, out.size)]
        if deltas:
            _widen(base, offset + start, bases[: total.size])
        for i in range(len(weight)):
            bad |= _take(sources_M[i], offset + start, bases, deltas, weight[i], i == 0, total)
        for j in range(total.size):
            total[j] = total[j] * scales[0] / scales[1] * scales[2]
        if deltas:  # -0.0 stays where nothing is added (rule R6)
            for j in range(total.size):
                total[j] = bases[j] if total[j] == 0 else bases[j] + total[j]
    return bad != 0


@compiled
def _widen(address: Any, offset: Any, out: Any) -> None:
    values = _halves_at(address)
    for j in range(out.size):
        out[j] = as_float(np.uint32(values[offset + j]) << _HALF)


@compiled
def _take(
    address: Any, offset: Any, base: Any, deltas: bool, weight: Any, first: bool, total: Any
) -> Any:
    """Add a weighted source, less the base, to the total; bits that tell what is not finite."""
    values = _halves_at(address)
    bad = np.uint32(0)
    if deltas and first:
        for j in range(total.size):
            value = as_float(np.uint32(values[offset + j]) << _HALF) - base[j]
            bad |= np.uint32(as_bits(value) & _EXPONENT == _EXPONENT)
            total[j] = value * weight
    elif deltas:
        for j in range(total.size):
            value = as_float(np.uint32(values[offset + j]) << _HALF) - base[j]
            bad |= np.uint32(as_bits(value) & _EXPONENT == _EXPONENT)
            total[j] += value * weight
    elif first:
        for j in range(total.size):
            value = as_float(np.uint32(values[offset + j]) << _HALF)
            bad |= np.uint32(as_bits(value) & _EXPONENT == _EXPONENT)
            total[j] = value * weight
    else:
        for j in range(total.size):
            value = as_float(np.uint32(values[offset + j]) << _HALF)
            bad |= np.uint32(as_bits(value) & _EXPONENT == _EXPONENT)
            total[j] += value * weight
    return bad
