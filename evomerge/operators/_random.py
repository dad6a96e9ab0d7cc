"""Random numbers that depend on a key and a position, not on what was drawn before."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.operators._compiled import array, compiled

BLOCK = 1 << 18  # elements drawn from one seed; a tile, so that none is drawn twice
_HALF = np.uint64(32)
_SCALE = np.float32(2.0**-24)


def uniforms(key: str, start: int, stop: int, out: Tensor | None = None) -> Tensor:
    """(stop - start,) float32 in [0, 1), multiples of 2⁻²⁴.

    Args:
        key: names the sequence.
        start, stop: which of its elements.
        out: memory for them, on the CPU.

    Source: rule R12; the bits are those of NumPy's SFC64, whose stream is fixed.
    """
    out = torch.empty(stop - start) if out is None else out
    for block in range(start // BLOCK, -(-stop // BLOCK)):
        first = block * BLOCK
        begin, end = max(start, first), min(stop, first + BLOCK)
        _fill(_state(key, block), begin - first, array(out[begin - start : end - start]))
    return out


def _state(key: str, block: int) -> Any:
    """(4,) uint64: a generator as NumPy seeds it."""
    digest = hashlib.blake2b(f"{key}\0{block}".encode(), digest_size=8).digest()
    state: Any = np.random.SFC64(int.from_bytes(digest, "little")).state["state"]["state"]
    return state


@compiled
def _fill(state: Any, skip: int, out: Any) -> None:
    """The numbers after the first ``skip``: 24 upper bits of each half, the lower half first."""
    words = out.view(np.uint32)
    a, b, c, counter = state
    for _ in range(skip // 2):
        _, a, b, c, counter = _step(a, b, c, counter)
    begin = min(skip % 2, out.size)
    if begin:
        drawn, a, b, c, counter = _step(a, b, c, counter)
        words[0] = np.uint32(drawn >> _HALF)
    end = begin + (out.size - begin) // 2 * 2
    for j in range(begin, end, 2):
        drawn, a, b, c, counter = _step(a, b, c, counter)
        words[j] = np.uint32(drawn)
        words[j + 1] = np.uint32(drawn >> _HALF)
    if end < out.size:
        drawn, a, b, c, counter = _step(a, b, c, counter)
        words[end] = np.uint32(drawn)
    for j in range(out.size):
        out[j] = np.float32(words[j] >> np.uint32(8)) * _SCALE


@compiled
def _step(a: Any, b: Any, c: Any, counter: Any) -> Any:
    """64 bits and the next state.

    Source: SFC64, Doty-Humphrey, PractRand.
    """
    drawn = a + b + counter
    turned = (c << np.uint64(24)) | (c >> np.uint64(40))
    following = b ^ (b >> np.uint64(11)), c + (c << np.uint64(3)), turned + drawn
    return drawn, following[0], following[1], following[2], counter + np.uint64(1)
