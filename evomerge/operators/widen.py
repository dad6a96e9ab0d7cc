"""WIDEN: scale the task vectors' columns by how much their norm and direction changed."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from evomerge.kernels.measures import measures
from evomerge.kernels.stack import Merged, Stack, Tile
from evomerge.operators import operator

_LEAST = 1e-30  # divisor


@operator(on="task_vectors", paper="Yu et al. 2024, arXiv:2408.03092")
def widen(
    x: Stack,
    *,
    above_average_ratio: Annotated[float, Field(ge=0)] = 1.0,
    calibration: float = 1.0,
    kind: Literal["linear", "embedding"] | None = None,
) -> Merged:
    """Σ ½ (m_i + d_i) ⊙ τ_i, where m_i and d_i score the columns of source i.

    A column's change of norm |‖W_i‖ - ‖W_0‖| and of direction 1 - cos(W_i, W_0) are ranked among
    the columns of its source; the ranks' softmax over the sources is the score. A column whose
    rank is above average scores ``calibration`` instead. In a vector every element is scored, by
    |τ_i| in place of the ranks.

    Args:
        x: M task vectors.
        above_average_ratio: a rank above so many times the average one is calibrated.
        calibration: the score of those. The scores of a column do not sum to 1.
        kind: ``linear`` has a column per input, ``embedding`` has one per token (a row); null
            goes by the tensor's role.

    Source: Yu et al. 2024, arXiv:2408.03092, and the authors' code.
    """
    by_token = (kind or ("embedding" if x.role == "embedding" else "linear")) == "embedding"
    if len(x.shape) < 2:
        return _vector(x, above_average_ratio, calibration)
    key = ("widen", by_token)
    norm, direction = measures(x).once(key, lambda: _column_ranks(x, by_token=by_token))
    columns = norm.shape[1]
    least = above_average_ratio * (columns - 1) / 2  # ranks are 0 ... n - 1
    scores = [
        (ranks.double() / columns).softmax(0).masked_fill_(ranks > least, calibration)
        for ranks in (norm, direction)
    ]
    by_column = (scores[0] + scores[1]).div_(2).float()
    if not by_token:
        return x.each_row(lambda tile: _weighted(tile, by_column.unsqueeze(1)))
    by_row = by_column.unsqueeze(2)
    return x.each_row(lambda tile: _weighted(tile, by_row[:, tile.start // x.row_length :]))


def _vector(x: Stack, ratio: float, calibration: float) -> Merged:
    """A tensor without columns, by the sizes of its elements."""
    measure = measures(x)
    total = measure.once(
        "magnitudes",
        lambda: measure.total(
            lambda tile: tile.values.flatten(1).abs().sum(1, dtype=torch.float64)
        ),
    )
    least = (ratio * total / x.size).float()

    def kernel(tile: Tile) -> Tensor:
        size = tile.values.flatten(1).abs()
        score = size.softmax(0).masked_fill_(size > least.to(size.device).unsqueeze(1), calibration)
        return _weighted(tile, score.view(tile.values.shape))

    return x.each(kernel)


def _weighted(tile: Tile, score: Tensor) -> Tensor:
    """Σ score_i τ_i; the scores may go on beyond the tile."""
    values = tile.values
    score = score[:, : values.shape[1]] if score.shape[1] > 1 else score
    return values.mul_(score.to(values.device)).sum(0)


def _ranks(numbers: Tensor) -> Tensor:
    """(M, n) int32: 0 for a row's smallest number; of equal ones the leftmost ranks lowest."""
    order = numbers.argsort(dim=1, stable=True)
    steps = torch.arange(numbers.shape[1], dtype=torch.int32, device=numbers.device)
    return torch.empty_like(order, dtype=torch.int32).scatter_(1, order, steps.expand_as(order))


def _column_ranks(x: Stack, *, by_token: bool) -> tuple[Tensor, Tensor]:
    """(M, n) twice: ranks of the changes of norm and of direction."""
    if by_token:
        sums = torch.cat([_sums(tile, 2) for tile in x.tiles(by_row=True)], dim=1)
    else:
        sums = measures(x).total(lambda tile: _sums(tile, 1), by_row=True)
    squares, products, base = sums[: x.count], sums[x.count : -1], sums[-1]
    norm = (base + 2 * products + squares).clamp_(min=0).sqrt_()
    base_norm = base.sqrt()
    # ‖W_i‖² - ‖W_0‖² = 2 W_0·τ_i + ‖τ_i‖², divided by the sum of the norms: nothing cancels
    of_norm = (2 * products + squares).abs_() / (norm + base_norm).clamp(min=_LEAST)
    # 1 - cos; for small changes by sin² / (1 + cos), which keeps its digits
    divisor = (norm * base_norm).clamp(min=_LEAST)
    cosine = ((base + products) / divisor).clamp(-1, 1)
    sine_squared = (base * squares - products.square()).clamp_(min=0) / divisor.square()
    straight = sine_squared / (1 + cosine.clamp(min=0))
    return _ranks(of_norm), _ranks(torch.where(cosine > 0, straight, 1 - cosine))


def _sums(tile: Tile, axis: int) -> Tensor:
    """(2 M + 1, n) float64: ‖τ_i‖², W_0·τ_i and ‖W_0‖² over rows (axis 1) or columns (2)."""
    if tile.base is None:
        raise ValueError("task vectors have a base")
    values, base = tile.values.double(), tile.base.double().unsqueeze(0)
    parts = (values.square(), values * base, base.square())
    return torch.cat([part.sum(axis) for part in parts])
