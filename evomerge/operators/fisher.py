"""Fisher-weighted averaging: a weight counts by how much its model's predictions depend on it."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field
from torch import Tensor

from evomerge.kernels.consensus import plain_divisor
from evomerge.kernels.measures import measures
from evomerge.kernels.stack import Merged, Stack, Tile
from evomerge.kernels.sums import weighted
from evomerge.operators import Bound, Floats, operator
from evomerge.operators._statistics import recorded, sums

_LEAST = 1e-12  # floor where none is asked for, as a fraction of the largest mean


@operator(
    on="weights",
    per_source={"lam": Bound(1.0, least=0.0), "fisher_norm": Bound(0.0, least=0.0)},
    weights="lam",
    averages=True,
    paper_defaults={"lam": 1.0},
    paper="Matena and Raffel 2022, arXiv:2111.09832",
    statistics="fisher",
    ordered=True,
)
def fisher(
    x: Stack,
    *,
    lam: Floats,
    fisher_norm: Floats,
    normalize: bool = True,
    favor_target: bool = True,
    floor: Annotated[float, Field(ge=0)] = 1e-6,
    relative_floor: bool = True,
) -> Merged:
    """Σ c_i F_i W_i / Σ c_i F_i, where c_i = λ_i / ‖F_i‖ and F_i is a Fisher diagonal.

    A tensor of which a source has no Fisher values gets the average weighted by λ alone.

    Args:
        x: M weights, with the Fisher values of each.
        lam: (M,) coefficients, not negative.
        fisher_norm: (M,) L2 norms of the Fisher values over the whole model; where one is 0 it
            is measured.
        normalize: divide by these norms; else c_i = λ_i.
        favor_target: apply the floor to the first source (of λ > 0) alone, which then decides
            where the Fisher values of all sources are below it.
        floor: smaller Fisher values are raised to it.
        relative_floor: the floor is a multiple of the tensor's mean Fisher value over all
            sources. If not it is absolute, as published: that of a language model lies far
            below 1e-6 almost everywhere, so that the floor would decide.

    Source: Matena and Raffel 2022, arXiv:2111.09832, and the authors' code.
    """
    fisher_M = recorded(x)
    if fisher_M is None:
        return _average(x, lam)
    means = measures(x).once("fisher means", lambda: (sums(fisher_M) / x.size).tolist())
    if relative_floor:
        floor *= sum(means) / x.count
    norms = _norms(x, fisher_norm) if normalize else [1.0] * x.count
    coefficient = [w / norm if norm else 0.0 for w, norm in zip(lam, norms, strict=True)]
    everywhere = not (favor_target and floor)
    floor = floor or _LEAST * max(means)  # where all Fisher values are 0, 0 / 0
    # scaled for the sake of float32: Fisher values may be tiny
    unit = max(c * max(mean, floor) for c, mean in zip(coefficient, means, strict=True))
    if unit == 0:
        return _average(x, lam)
    target = next(i for i, c in enumerate(coefficient) if c)
    floored = slice(None) if everywhere else slice(target, target + 1)

    def kernel(tile: Tile) -> Tensor:
        F_M = tile.of(fisher_M)
        F_M[floored].clamp_(min=floor)
        for values, F, c in zip(tile.values, F_M, coefficient, strict=True):
            values.mul_(F.mul_(c / unit))
        return tile.values.sum(0).div_(F_M.sum(0))

    return x.each(kernel)


def _average(x: Stack, lam: Floats) -> Merged:
    lam = lam if any(lam) else (1.0,) * x.count
    return weighted(x, lam, divisor=plain_divisor(lam))


def _norms(x: Stack, recorded_norms: Floats) -> list[float]:
    """(M,) norms of the Fisher values over the whole model, measured where they are 0."""
    if all(recorded_norms):
        return list(recorded_norms)
    whole = measures(x, "global", every=True)

    def measure() -> dict[str, float]:
        squares = dict.fromkeys(x.labels, 0.0)
        for _, part in whole.parts:
            for label, tensor in zip(part.labels, part.statistics, strict=True):
                if tensor is not None:
                    squares[label] = squares.get(label, 0.0) + float(sums([tensor], power=2))
        return {label: math.sqrt(square) for label, square in squares.items()}

    measured = whole.once("fisher norms", measure)
    return [norm or measured[label] for norm, label in zip(recorded_norms, x.labels, strict=True)]
