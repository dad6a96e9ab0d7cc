"""Random numbers that depend on a key and a position, not on what was drawn before."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

BLOCK = 1 << 18  # elements drawn from one seed; a tile, so that none is drawn twice


def uniforms(key: str, start: int, stop: int) -> Tensor:
    """(stop - start,) float32 in [0, 1), multiples of 2⁻²⁴.

    Args:
        key: names the sequence.
        start, stop: which of its elements.

    Source: rule R12; the bits are those of NumPy's SFC64, whose stream is fixed.
    """
    parts = []
    for block in range(start // BLOCK, -(-stop // BLOCK)):
        first = block * BLOCK
        parts.append(_block(key, block)[max(start - first, 0) : stop - first])
    return torch.cat(parts) if len(parts) != 1 else parts[0]


def _block(key: str, block: int) -> Tensor:
    digest = hashlib.blake2b(f"{key}\0{block}".encode(), digest_size=8).digest()
    bits = np.random.SFC64(int.from_bytes(digest, "little")).random_raw(BLOCK // 2)
    words = torch.from_numpy(bits.view(np.int32))
    # the upper 24 bits of each word; a shift keeps the sign, so that it is masked
    words.bitwise_right_shift_(8).bitwise_and_(0xFFFFFF)
    return words.to(torch.float32).mul_(2.0**-24)
