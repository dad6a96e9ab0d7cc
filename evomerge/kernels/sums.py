"""Weighted sums of tensors, the fastest way for each kind of input.

Float32 tiles of every source go through memory several times. Where all tensors are bfloat16 in a
CPU's memory, one compiled loop adds their elements up directly, to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numba import types
from numba.extending import intrinsic
from numpy.typing import ArrayLike
from torch import Tensor

from evomerge.kernels.choices import Consensus, Negative
from evomerge.kernels.compiled import BLOCK, array, as_bits, as_float, compiled, fits
from evomerge.kernels.consensus import (
    consensus_sum,
    divided,
    plain_divisor,
    scaled,
    weighted_sum,
)
from evomerge.kernels.memory import buffer
from evomerge.kernels.stack import NotFiniteError, Stack, Tile, Tiles

_EXPONENT = np.uint32(0x7F800000)
_HALF = np.uint32(16)


def weighted(
    x: Stack, weight: Sequence[float], *, factor: float = 1.0, divisor: float = 1.0
) -> Tiles:
    """(Σ w_i x_i) · factor / divisor, of weights or task vectors.

    Args:
        x: M tensors.
        weight: (M,) any sign.
        factor: of the sum.
        divisor: of the sum, not zero.
    """

    def kernel(tile: Tile) -> Tensor:
        total = scaled(weighted_sum(tile.values, weight), factor)
        return total if divisor == 1 else divided(total, divisor)

    return replace(x.each(kernel), at_once=_at_once(x, weight, factor, divisor))


def summed(
    x: Stack,
    weight: Sequence[float],
    *,
    lam: float,
    normalize: bool,
    consensus: Consensus | None = None,
    negative: Negative = "subtract",
) -> Tiles:
    """λ Σ w_i τ_i over all entries, or over those that agree with an elected sign.

    Args:
        x: M task vectors.
        weight: (M,) any sign.
        lam: scale of the sum.
        normalize: divide by |Σ w_i|; with an election by Σ |w_i| over the entries that agree.
        consensus: how signs are elected; None adds up all entries.
        negative: as for `consensus_sum`.
    """
    if consensus is None:
        factor = lam / plain_divisor(weight, signed=False) if normalize else lam
        return weighted(x, weight, factor=factor)

    def kernel(tile: Tile) -> Tensor:
        total = consensus_sum(
            tile.values, weight, normalize=normalize, consensus=consensus, negative=negative
        )
        return scaled(total, lam)

    return x.each(kernel)


def _at_once(
    x: Stack, weight: Sequence[float], factor: float, divisor: float
) -> Callable[[int, int, float], Tensor] | None:
    """`Tiles.at_once` of a weighted sum; None unless all tensors are bfloat16 on the CPU."""
    base = [x.base] if x.deltas else []
    plain = [t for t in (*x.inputs, *base) if isinstance(t, Tensor) and t.dtype == torch.bfloat16]
    lacks_some = len(plain) < x.count + len(base) or not fits(*plain)
    if x.changes or x.by_row or x.device.type != "cpu" or lacks_some:
        return None
    sources_M = np.array([tensor.data_ptr() for tensor in plain[: x.count]], np.uint64)
    base_address = np.uint64(plain[-1].data_ptr())
    with np.errstate(over="ignore"):  # an infinite sum is an error where it is stored
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


def piecewise_sum(sources: Sequence[Tensor], ends: ArrayLike, rows: ArrayLike) -> Tensor:
    """Σ_k C[s, k] θ_k on every segment s, the same bits as the operator ``segments``.

    Args:
        sources: K tensors, (N,) float32 on the CPU.
        ends: (S,) the elements at which segments end, ascending to N.
        rows: (S, K) the coefficients C.

    Returns:
        (N,) float32.
    """
    values_KN = torch.stack(list(sources))
    _sum_pieces(array(values_KN), np.array(ends, np.int64), np.array(rows, np.float32, order="C"))
    return values_KN[0]


@intrinsic  # type: ignore[untyped-decorator]
def _halves_at(context: Any, address: Any) -> Any:
    """A pointer to 16-bit elements at an address."""

    def pointer(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint16)(types.uint64), pointer


@compiled
def _sum(
    sources_M: Any, base: Any, offset: Any, weight: Any, scales: Any, deltas: bool, out: Any
) -> Any:
    """Write the result from an element on to ``out``; whether any input is not finite."""
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
    """Add a weighted source, minus the base, to the total; not 0 if a value is not finite."""
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


@compiled
def _sum_pieces(values_KN: Any, ends: Any, rows: Any) -> None:
    """Writes the sums to the first row."""
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
