"""Uniform random numbers that depend on a key and a position, not on earlier draws."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.compiled import array, compiled

_HALF = np.uint64(32)
_SCALE = np.float32(2.0**-24)


def uniforms(key: str, start: int, stop: int, out: Tensor | None = None) -> Tensor:
    """(stop - start,) float32 in [0, 1), multiples of 2⁻²⁴.

    Args:
        key: names the random sequence.
        start, stop: which elements of the sequence.
        out: (stop - start,) float32 on the CPU to write them to.

    Source: rule R12; the generator is Squares, Widynski 2020, arXiv:2004.06278.
    """
    out = torch.empty(stop - start) if out is None else out
    _fill(generator_key(key), start, array(out))
    return out


def generator_key(key: str) -> np.uint64:
    """The odd number by which the generator multiplies its counters."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little") | 1)


@compiled
def four_rounds(x: Any, key: Any) -> Any:
    """64 random bits from ``x``, a counter times the key; the last round's halves not swapped.

    Source: Squares, Widynski 2020, arXiv:2004.06278.
    """
    y, z = x, x + key
    x = x * x + y
    x = (x >> _HALF) | (x << _HALF)
    x = x * x + z
    x = (x >> _HALF) | (x << _HALF)
    x = x * x + y
    x = (x >> _HALF) | (x << _HALF)
    return x * x + z


@compiled
def _fill(key: Any, start: int, out: Any) -> None:
    """The upper 24 of 32 bits for every counter."""
    for j in range(out.size):
        bits = four_rounds(np.uint64(start + j) * key, key)
        out[j] = np.float32(np.uint32(bits >> _HALF) >> np.uint32(8)) * _SCALE
