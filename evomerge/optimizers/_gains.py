"""What each member of an archive scores above given scores, as one compiled sum over examples."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.kernels.loops import SIMD_LANES, compiled


@compiled
def gains(scores_PE: Any, over_E: Any, shares_E: Any) -> Any:
    """(P,) Σ_j max(s_ij − over_j, 0) share_j, added in one order, so that equal members tie."""
    count, size = scores_PE.shape
    sums = np.empty(count)
    lanes = np.empty(SIMD_LANES)
    whole = size // SIMD_LANES * SIMD_LANES
    for i in range(count):
        lanes[:] = 0.0
        for start in range(0, whole, SIMD_LANES):
            chunk = slice(start, start + SIMD_LANES)
            s, over, share = scores_PE[i, chunk], over_E[chunk], shares_E[chunk]
            for lane in range(SIMD_LANES):
                lanes[lane] += max(s[lane] - over[lane], 0.0) * share[lane]
        for j in range(whole, size):
            lanes[0] += max(scores_PE[i, j] - over_E[j], 0.0) * shares_E[j]
        sums[i] = lanes.sum()
    return sums
