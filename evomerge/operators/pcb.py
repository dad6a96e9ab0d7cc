"""Parameter competition balancing: entries weighted within each task and between tasks."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from evomerge.kernels.choices import Scope
from evomerge.kernels.consensus import divided
from evomerge.kernels.measures import Measures, magnitude, measures
from evomerge.kernels.ranks import Ranking
from evomerge.kernels.stack import Kernel, Merged, Stack, Tile
from evomerge.operators import Bound, Floats, operator


@operator(
    on="task_vectors",
    per_source={"lam": Bound(1.0)},
    paper_defaults={"ratio": 0.1, "lam": 1.2},
    paper="Du et al. 2024, arXiv:2410.02396",
)
def pcb(
    x: Stack,
    *,
    lam: Floats,
    ratio: Annotated[float, Field(gt=0, le=1)] = 0.1,
    clip: Annotated[float, Field(ge=0, lt=0.5)] = 1e-4,
    scope: Scope = "tensor",
) -> Merged:
    """Σ λ_i s_i τ̂_i / Σ s_i, the scores s_i in [0, 1] being zero for all but a fraction.

    s_i = minmax(max(exp(M · minmax(|τ̂_i|)²) · tanh(τ_i Σ_j τ_j), q_i)): an entry counts if it is
    large in its task, and if the tasks agree about it. τ̂_i is τ_i with magnitudes clipped, q_i
    the ⌊(1-r)D⌋-th of the D scores in ascending order. Where no source scores, the base stays.

    Orders are exact and found in passes over the tensors: four to read, one to write.

    Args:
        x: M task vectors.
        lam: (M,) scale of each source.
        ratio: r, the fraction of entries of a source that score, in (0, 1].
        clip: c, magnitudes are clipped to those at ⌊cD⌋ and ⌊(1-c)D - 1⌋ in ascending order:
            at least the largest. Set 0 or ``global`` scope for small tensors.
        scope: whether D is counted in each ``tensor`` or in the whole model (``global``, as
            published).

    Source: PCB-Merging, Du et al. 2024, arXiv:2410.02396; equations as in the authors' code,
    which uses exp, tanh and minmax where the paper has softmax.
    """
    bounds = _bounds(measures(x, scope), ratio, clip)
    scores = _scores(bounds.least, bounds.most)

    def kernel(tile: Tile) -> Tensor:
        s_M = scores(tile)
        total, divisor = torch.zeros_like(s_M[0]), torch.zeros_like(s_M[0])
        for i, (tau, s) in enumerate(zip(tile.values, s_M, strict=True)):
            s.sub_(bounds.floor[i]).relu_()
            divided(s, bounds.top[i] - bounds.floor[i] or 1.0)
            clipped = tau.abs().clamp_(bounds.least[i], bounds.most[i]).mul_(tau.sign())
            total += clipped.mul_(s).mul_(lam[i])
            divisor += s
        return total.div_(divisor.clamp_(min=1e-12))

    return x.each(kernel)


class _Bounds(NamedTuple):
    """(M,) each: limits of the magnitudes, and the scores that become 0 and 1."""

    least: list[float]
    most: list[float]
    floor: list[float]
    top: list[float]


def _bounds(measure: Measures, ratio: float, clip: float) -> _Bounds:
    size, count = measure.size, measure.stack.count
    low = math.floor(clip * size)
    high = max(low, math.floor((1 - clip) * size - 1))

    def find() -> _Bounds:
        sizes = measure.ranking(magnitude, "magnitude")
        places = [(i, size - place) for place in (low, high) for i in range(count)]
        limits = _largest(sizes, places)
        least, most = limits[:count], limits[count:]
        scores = _scores(least, most)

        def sides(tile: Tile) -> Tensor:
            s_M = scores(tile)
            both = torch.cat([s_M, -s_M]).relu_().add_(0.0)  # ranks are of bits, without -0.0
            return both.flatten(1)

        ranking = measure.ranking(sides)
        wanted = []
        for place in (min(size - 1, math.floor((1 - ratio) * size + 1e-6)), size - 1):
            for i in range(count):
                # negative scores are ranked in a row of their own, from the other end
                below = ranking.positive(count + i)
                wanted.append((count + i, place + 1) if place < below else (i, size - place))
        values = [
            -value if row >= count else value
            for (row, _), value in zip(wanted, _largest(ranking, wanted), strict=True)
        ]
        return _Bounds(least, most, values[:count], values[count:])

    return measure.latest("pcb", (ratio, clip), find)


def _largest(ranking: Ranking, wanted: list[tuple[int, int]]) -> list[float]:
    """The ``count``-th largest number of a row, for each pair of row and count, from 1."""
    return [max(cut.value, 0.0) for cut in ranking.cuts_at(wanted)]


def _scores(least: list[float], most: list[float]) -> Kernel:
    def kernel(tile: Tile) -> Tensor:
        """(M, n) any sign; common factors do not matter, so that exp is kept below 1."""
        count = len(tile.values)
        s_M = (tile.values * tile.values.sum(0)).tanh_()
        for i, tau in enumerate(tile.values):
            span = most[i] - least[i]
            size = divided(tau.abs().clamp_(least[i], most[i]).sub_(least[i]), span or 1.0)
            s_M[i] *= size.square_().sub_(1).mul_(count).exp_()
        return s_M

    return kernel
