"""Arcee Fusion: take from the second model the elements that changed most."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import hardshrink

from evomerge.kernels.cuts import below_float
from evomerge.kernels.measures import measures
from evomerge.kernels.ranks import Ranking
from evomerge.kernels.stack import Merged, Stack, Tile
from evomerge.operators import operator


@operator(
    on="pair",
    paper_defaults={"iqr_factor": 1.5},
    paper="Arcee AI 2024, mergekit's arcee_fusion",
)
def arcee_fusion(
    x: Stack,
    *,
    eps: Annotated[float, Field(gt=0)] = 1e-8,
    iqr_factor: Annotated[float, Field(ge=0)] = 1.5,
) -> Merged:
    """W_1 + τ ⊙ 1[I ≥ median(I) + f (Q3(I) - Q1(I))], τ = W_2 - W_1.

    I = |τ| · KL(softmax(W_2) + ε ‖ softmax(W_1) + ε), the divergence being that of the element's
    row. Where most scores are zero the threshold may be zero too, and everything passes.

    Args:
        x: two weights: of two sources, or of the base and one source.
        eps: ε, added to the probabilities.
        iqr_factor: f; how far above the median an element must lie, in quartile ranges.

    Source: Arcee AI 2024, mergekit's ``arcee_fusion``; the quartiles are exact here.
    """
    measure = measures(x)
    line = x.shape[-1] if x.shape else 1

    def divergences() -> Tensor:
        """(lines,) float32."""
        lines = (tile.values.view(2, -1, line) for tile in x.tiles(by_row=True))
        return torch.cat([row_divergence(lines_2, eps).float().cpu() for lines_2 in lines])

    divergence = measure.once(("divergence", eps), divergences)

    def scores(tile: Tile) -> Tensor:
        lines = tile.values.view(2, -1, line)
        first = tile.start // line
        of_line = divergence[first : first + lines.shape[1]].view(-1, 1).to(lines.device)
        return (lines[1] - lines[0]).abs_().mul_(of_line).view(1, -1)

    ranking = measure.ranking(scores, ("importance", eps), by_row=True)
    # hardshrink keeps what is larger than its argument
    least = below_float(_round_up(threshold(ranking, x.size, iqr_factor)))

    def kernel(tile: Tile) -> Tensor:
        passes = scores(tile).view(tile.values.shape[1:])
        passes = hardshrink(passes, least).sign_() if least >= 0 else torch.ones_like(passes)
        first, second = tile.values.unbind()
        return second.sub_(first).mul_(passes).add_(first)

    return x.each_row(kernel)


def row_divergence(lines_2: Tensor, eps: float) -> Tensor:
    """(r,) float64: the divergences of (2, r, c) rows of both models, 0 for equal rows."""
    # of two rows that are almost equal it is the small difference of large sums
    q, p = lines_2.double().softmax(-1).add_(eps).unbind()
    return ((p / q).log_() * p).sum(-1).clamp_(min=0)


def threshold(ranking: Ranking, size: int, iqr_factor: float) -> float:
    """Median + f · (Q3 - Q1) of the scores; a quantile q is the ⌊q (n - 1)⌋-th smallest."""
    counts = [size - math.floor(q * (size - 1)) for q in (0.25, 0.5, 0.75)]
    cuts = ranking.cuts_at([(0, count) for count in counts])
    first, median, third = (max(cut.value, 0.0) for cut in cuts)
    return median + iqr_factor * (third - first)


def _round_up(value: float) -> float:
    """The smallest float32 that is at least a number."""
    rounded = torch.tensor(value, dtype=torch.float32)
    if float(rounded) < value:
        rounded = torch.nextafter(rounded, torch.tensor(math.inf))
    return float(rounded)
