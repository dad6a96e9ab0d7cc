"""SCE: select by variance, calculate coefficients, erase minority signs."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from evomerge.operators._consensus import scaled
from evomerge.operators._deviation import shares, squares
from evomerge.operators._measures import measures
from evomerge.operators._memory import scratch
from evomerge.operators._operator import operator
from evomerge.operators._selection import mask, selected
from evomerge.operators._stack import Merged, Stack, Tile

_SMALLEST = 2.0**-126  # normal float32


@operator(
    on="task_vectors",
    textbook={"select_topk": 0.1},
    paper="Wan et al. 2024, arXiv:2408.07990",
)
def sce(
    x: Stack,
    *,
    select_topk: Annotated[float, Field(ge=0, le=1)] = 1.0,
    mask_deltas: bool = True,
    lam: float = 1.0,
    coefficient_floor: Annotated[float, Field(ge=0)] = 0.0,
) -> Merged:
    """λ Σ c_i m_i τ_i / Σ c_i m_i over the elements that vary most from source to source.

    Select the ⌊s·n'⌋ elements of largest variance, of the n' where it is not zero. Calculate
    c_i ∝ mean(τ_i²) over them. Erase (m_i = 0) what disagrees with the sign of Σ τ_i.

    Args:
        x: M task vectors. A single one varies nowhere: below s = 1 nothing of it is kept.
        select_topk: s, the fraction selected, in [0, 1]; 1 takes all elements.
        mask_deltas: merge the selected elements alone; the authors' code selects for the
            coefficients only.
        lam: scale of the result.
        coefficient_floor: equal coefficients where Σ mean(τ_i²) is below it. mergekit has 1e-6,
            which the task vectors of a language model seldom reach.

    Source: FuseChat, Wan et al. 2024, arXiv:2408.07990.
    """
    some = selected(x, select_topk) if select_topk < 1 else None
    sums = (squares(measures(x)) if some is None else some.squares).tolist()
    small = math.fsum(sums) / x.size < coefficient_floor
    coefficient = shares([0.0] * x.count if small else sums)

    def kernel(tile: Tile) -> Tensor:
        inside = mask(tile, some.cut) if some is not None and mask_deltas else None
        return scaled(_agreeing_mean(tile.values, coefficient, inside), lam)

    return x.each(kernel)


def _agreeing_mean(values_M: Tensor, coefficient: list[float], inside: Tensor | None) -> Tensor:
    """Σ c_i m_i τ_i / Σ c_i m_i; m_i is 1 where τ_i has the sign of Σ τ_i, inside."""
    elected = scratch("elected", values_M[0])
    torch.sum(values_M, 0, out=elected)
    # so small a number tips a sum of zero only, so large a factor leaves 0 or at least 1
    elected.add_(_SMALLEST).sign_().mul_(1 / _SMALLEST)
    if inside is not None:
        elected.mul_(inside)
    total: Tensor | None = None
    divisor: Tensor | None = None
    for values, c in zip(values_M, coefficient, strict=True):
        name = "divisor" if divisor is None else "share"
        share = torch.mul(values, elected, out=scratch(name, elected)).clamp_(0, 1).mul_(c)
        values.mul_(share)
        total = values if total is None else total.add_(values)
        divisor = share if divisor is None else divisor.add_(share)
    assert total is not None and divisor is not None
    return total.div_(divisor.clamp_(min=_SMALLEST))  # where nobody agrees the total is zero
