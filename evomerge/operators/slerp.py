"""Spherical interpolation between two models."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from evomerge.operators._operator import operator


@operator(
    on="pair", textbook={"t": 0.5}, paper="Shoemake 1985, doi:10.1145/325165.325242; as in mergekit"
)
def slerp(pair_2: Tensor, *, t: Annotated[float, Field(ge=0, le=1)] = 0.5) -> Tensor:
    """The point at fraction t of the arc from the first tensor to the second.

    The weights themselves are combined, not their directions; the angle is that between the
    flattened tensors. Where |cos| exceeds 0.9995 it falls back to the straight line.

    Args:
        pair_2: (2, *shape) float32: the two sources, or the base and one source.
        t: 0 gives the first model, 1 the second.

    Returns:
        (*shape) float32.

    Source: Shoemake 1985, doi:10.1145/325165.325242, with mergekit's threshold.
    """
    first, second = pair_2[0], pair_2[1]
    # float64 sums: their last bit must not depend on the number of threads
    a, b = first.flatten().double(), second.flatten().double()
    norm_a, norm_b = float(a.norm()), float(b.norm())
    scale_a = norm_a if norm_a > 1e-8 else 1.0
    scale_b = norm_b if norm_b > 1e-8 else 1.0
    cosine = max(-1.0, min(1.0, float(a @ b) / (scale_a * scale_b)))
    if abs(cosine) > 0.9995:
        return first * (1 - t) + second * t
    theta = torch.arccos(torch.tensor(cosine, dtype=torch.float64))
    weight_a = float(torch.sin((1 - t) * theta) / torch.sin(theta))
    weight_b = float(torch.sin(t * theta) / torch.sin(theta))
    return first * weight_a + second * weight_b
