"""Random numbers that depend on a key and a position, not on earlier draws: the same everywhere.

For normal ones only sums, products and square roots of float32 are used, each rounded once: the
logarithm, sine and cosine of a mathematical library differ from machine to machine in the last bit.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.compiled import array, as_bits, as_float, compiled

_HALF = np.uint64(32)
_SCALE = np.float32(2.0**-24)
_TURN = np.float32(2 * np.pi * 2.0**-32)
_UNIT = np.float32(2.0**-32)


def uniforms(key: str, start: int, stop: int, out: Tensor | None = None) -> Tensor:
    """(stop - start,) float32 in [0, 1), multiples of 2⁻²⁴.

    Args:
        key: names the random sequence.
        start, stop: which elements of the sequence.
        out: (stop - start,) float32 on the CPU to write them to.

    Source: rule R12; the generator is Squares, Widynski 2020, arXiv:2004.06278.
    """
    out = torch.empty(stop - start) if out is None else out
    _fill_uniforms(_generator_key(key), start, array(out))
    return out


def normals(key: str, start: int, stop: int, out: Tensor | None = None) -> Tensor:
    """(stop - start,) float32 of mean 0 and variance 1, none beyond 6.8.

    Elements 2i and 2i + 1 are made from the 64 bits of counter i: 32 for their distance from the
    origin, 32 for their direction.

    Args:
        key: names the random sequence.
        start, stop: which elements of the sequence.
        out: (stop - start,) float32 on the CPU to write them to.

    Source: Box & Muller 1958, doi:10.1214/aoms/1177706645; the generator is Squares with five
        rounds, Widynski 2020, arXiv:2004.06278; the polynomials are those of Cephes' logf, sinf
        and cosf (Moshier 1989).
    """
    out = torch.empty(stop - start) if out is None else out
    first, last = start // 2, (stop + 1) // 2
    whole = start % 2 == stop % 2 == 0
    pairs = array(out) if whole else np.empty(2 * (last - first), np.float32)
    _fill_normals(_generator_key(key), first, pairs)
    if not whole:
        array(out)[:] = pairs[start - 2 * first : stop - 2 * first]
    return out


def _generator_key(key: str) -> np.uint64:
    """The odd number by which the generator multiplies its counters."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little") | 1)


@compiled
def _four_rounds(x: Any, key: Any) -> Any:
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
def _fill_uniforms(key: Any, start: int, out: Any) -> None:
    """The upper 24 of 32 bits for every counter."""
    for j in range(out.size):
        bits = _four_rounds(np.uint64(start + j) * key, key)
        out[j] = np.float32(np.uint32(bits >> _HALF) >> np.uint32(8)) * _SCALE


@compiled
def _fill_normals(key: Any, first: int, out: Any) -> None:
    """The two numbers of each counter from ``first`` on."""
    one, half = np.float32(1), np.float32(0.5)
    for i in range(out.size // 2):
        y = np.uint64(first + i) * key
        t = _four_rounds(y, key)
        x = (t >> _HALF) | (t << _HALF)
        bits = t ^ ((x * x + y) >> _HALF)

        # the logarithm of a number in (0, 1]: m 2^e with m in [sqrt(1/2), sqrt(2))
        u = (np.float32(np.uint32(bits >> _HALF)) + half) * _UNIT
        raw = np.uint32(as_bits(u) - np.uint32(0x3F3504F3))
        e = np.float32(np.int32(raw) >> np.int32(23))
        m = as_float(np.uint32(np.uint32(raw & np.uint32(0x7FFFFF)) + np.uint32(0x3F3504F3))) - one
        w = m * m
        p = np.float32(7.0376836292e-2) * m + np.float32(-1.1514610310e-1)
        p = p * m + np.float32(1.1676998740e-1)
        p = p * m + np.float32(-1.2420140846e-1)
        p = p * m + np.float32(1.4249322787e-1)
        p = p * m + np.float32(-1.6668057665e-1)
        p = p * m + np.float32(2.0000714765e-1)
        p = p * m + np.float32(-2.4999993993e-1)
        p = p * m + np.float32(3.3333331174e-1)
        low = p * m * w + np.float32(-2.12194440e-4) * e - half * w
        log = (m + low) + np.float32(0.693359375) * e
        radius = np.sqrt(np.float32(-2) * min(log, np.float32(0)))

        # sine and cosine: a quarter of the circle, and where in [-1/8, 1/8] of a turn around it
        turn = np.uint32(bits)
        quarter = np.uint32(np.uint32(turn + np.uint32(1 << 29)) >> np.uint32(30))
        a = np.float32(np.int32(np.uint32(turn - np.uint32(quarter << np.uint32(30))))) * _TURN
        q = a * a
        s = np.float32(-1.9515295891e-4) * q + np.float32(8.3321608736e-3)
        s = (s * q + np.float32(-1.6666654611e-1)) * q * a + a
        c = np.float32(2.443315711809948e-5) * q + np.float32(-1.388731625493765e-3)
        c = (c * q + np.float32(4.166664568298827e-2)) * q * q - half * q + one
        odd = (quarter & np.uint32(1)) == np.uint32(1)
        cosine = s if odd else c
        sine = c if odd else s
        if quarter == np.uint32(1) or quarter == np.uint32(2):
            cosine = -cosine
        if quarter >= np.uint32(2):
            sine = -sine
        out[2 * i] = radius * cosine
        out[2 * i + 1] = radius * sine
