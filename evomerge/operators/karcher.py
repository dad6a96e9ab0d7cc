"""Mean of directions along the sphere (Fréchet, Karcher), at the mean length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from evomerge.kernels.choices import AveragingSpace
from evomerge.kernels.consensus import plain_divisor
from evomerge.kernels.measures import measures
from evomerge.kernels.stack import Merged, Stack
from evomerge.kernels.sums import weighted
from evomerge.operators import Bound, Floats, operator


@operator(
    on="either",
    per_source={"weight": Bound(1.0, least=0.0)},
    factor="weight",
    averages=True,
    paper_defaults={"weight": 1.0},
    paper="Karcher 1977, doi:10.1002/cpa.3160300502; as in mergekit",
)
def karcher(
    x: Stack,
    *,
    weight: Floats,
    max_iter: Annotated[int, Field(ge=0, le=10_000)] = 10,
    tol: Annotated[float, Field(gt=0)] = 1e-5,
    space: AveragingSpace = "weights",
) -> Merged:
    """(Σ a_i ‖x_i‖) · u, where u minimizes Σ a_i ∠(u, x_i)² on the unit sphere.

    Args:
        x: M weights or task vectors.
        weight: (M,) not negative; a_i = w_i / Σ w_j. Tensors of a norm of ``tol`` or less have
            no direction; they count in the mean length alone.
        max_iter: most steps.
        tol: stop when a step is shorter, in radians.
        space: whether weights are averaged or, if there is a base, task vectors.

    Source: Karcher 1977, doi:10.1002/cpa.3160300502; mergekit's ``karcher``.
    """
    gram = measures(x).gram()
    norms = gram.diagonal().sqrt()
    share = torch.tensor(weight, dtype=torch.float64) / plain_divisor(weight, signed=not x.deltas)
    length = float(share @ norms)
    usable = [i for i in range(x.count) if norms[i] > tol and share[i] > 0]
    factor = [0.0] * x.count
    if usable:
        scale = norms[usable]
        unit_gram = gram[usable][:, usable] / (scale.view(-1, 1) * scale)
        mean = mean_direction(unit_gram, share[usable].tolist(), max_iter, tol)
        for i, value in zip(usable, (mean * length / scale).tolist(), strict=True):
            factor[i] = value
    return weighted(x, factor)


def mean_direction(unit_gram: Tensor, weight: Sequence[float], max_iter: int, tol: float) -> Tensor:
    """(M,) float64: coefficients of the Karcher mean of M unit vectors, of length 1.

    Every iterate is a combination of the vectors, so that their inner products tell everything:
    the vectors themselves are read only once.

    Args:
        unit_gram: (M, M) float64, their inner products.
        weight: (M,) not negative, not all zero.
    """

    def norm(coefficients: Tensor) -> float:
        return math.sqrt(max(0.0, float(coefficients @ unit_gram @ coefficients)))

    share = torch.tensor(weight, dtype=torch.float64)
    share = share / share.sum()
    first = torch.zeros_like(share)
    first[0] = 1.0  # where the average vanishes, start from one of the vectors
    mean = first if norm(share) < tol else share / norm(share)
    for _ in range(max_iter):
        cosine = (unit_gram @ mean).clamp(-1, 1)
        theta = cosine.acos()
        pull = share * torch.where(theta < 1e-6, 1.0, theta / theta.sin().clamp(min=1e-12))
        tangent = pull - (pull @ cosine) * mean
        step = norm(tangent)
        if step < tol:
            break
        mean = math.cos(step) * mean + (math.sin(step) / step) * tangent
        mean = mean / norm(mean)
    return mean
