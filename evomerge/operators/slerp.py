"""Spherical interpolation between two models."""

from __future__ import annotations

import math

from evomerge.kernels.measures import measures
from evomerge.kernels.stack import Merged, Stack
from evomerge.kernels.sums import weighted
from evomerge.operators import operator


@operator(
    on="pair",
    weights="t",
    averages=True,
    paper_defaults={"t": 0.5},
    paper="Shoemake 1985, doi:10.1145/325165.325242; as in mergekit",
)
def slerp(x: Stack, *, t: float = 0.5) -> Merged:
    """The point at fraction t of the arc from the first tensor to the second.

    The weights themselves are combined, not their directions; the angle is that between the
    flattened tensors. Where |cos| exceeds 0.9995 it falls back to the straight line.

    Args:
        x: two weights: of two sources, or of the base and one source.
        t: 0 gives the first model, 1 the second; others extrapolate.

    Source: Shoemake 1985, doi:10.1145/325165.325242, with mergekit's threshold.
    """
    gram = measures(x).gram()
    norms = [math.sqrt(float(square)) for square in gram.diagonal()]
    scales = [norm if norm > 1e-8 else 1.0 for norm in norms]
    cosine = max(-1.0, min(1.0, float(gram[0, 1]) / (scales[0] * scales[1])))
    weight: tuple[float, ...] = (1 - t, t)
    if abs(cosine) <= 0.9995:
        theta = math.acos(cosine)
        weight = (
            math.sin((1 - t) * theta) / math.sin(theta),
            math.sin(t * theta) / math.sin(theta),
        )
    return weighted(x, weight)
