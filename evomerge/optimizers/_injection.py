"""Points that a normal distribution did not draw itself, made fit to learn from.

Source: Hansen 2011, "Injecting external solutions into CMA-ES", arXiv:1110.4181.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def shortened(step: Any, sigma: float, covariance: Any) -> Any:
    """A step from the mean, at most as long as one of the distribution's own could well be.

    Args:
        step: (D,) point minus mean.
        sigma: the distribution's step size.
        covariance: (D, D), or (D,) where it is diagonal.

    Returns:
        (D,) in the same direction.

    Source: arXiv:1110.4181, section 3: y is clipped at the Mahalanobis length sqrt(D) + 2D/(D+2).
    """
    y = step / sigma
    D = len(y)
    white = y / covariance if covariance.ndim == 1 else np.linalg.solve(covariance, y)
    length = math.sqrt(max(0.0, float(y @ white)))
    longest = math.sqrt(D) + 2 * D / (D + 2)
    return step if length <= longest else step * (longest / length)
