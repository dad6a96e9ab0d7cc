"""SCE: select by variance, calculate coefficients, erase minority signs."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from evomerge.kernels.compiled import BLOCK, NOTHING, array, compiled, fits, rows
from evomerge.kernels.consensus import scaled
from evomerge.kernels.measures import measures
from evomerge.kernels.memory import scratch
from evomerge.kernels.selection import mask, selected
from evomerge.kernels.stack import Merged, Stack, Tile
from evomerge.operators import operator
from evomerge.operators.varm import shares, squares


@operator(
    on="task_vectors",
    averages=True,
    paper_defaults={"select_topk": 0.1},
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
    """Σ c_i m_i τ_i / Σ c_i m_i; m_i is 1 where τ_i has the sign of Σ τ_i, inside.

    Args:
        values_M: (M, ...) task vectors.
        inside: 1 for the selected elements, else 0, shaped as one source's.
    """
    if fits(values_M) and (inside is None or fits(inside)):
        total = scratch("merged", values_M[0])
        selected = NOTHING if inside is None else array(inside.view(-1))
        shares = np.array(coefficient, np.float32)
        _mean_of_agreeing(rows(values_M), shares, selected, array(total.view(-1)))
        return total
    sign = torch.where(values_M.sum(0) >= 0, 1.0, -1.0)
    sign = sign if inside is None else sign * inside
    share_M = torch.tensor(coefficient, device=sign.device).view(-1, *[1] * sign.dim())
    agreeing_M = share_M * (values_M * sign > 0)
    total = (values_M * agreeing_M).sum(0)
    divisor = agreeing_M.sum(0)
    return total / torch.where(divisor > 0, divisor, 1.0)


@compiled
def _mean_of_agreeing(values_MN: Any, coefficient: Any, inside: Any, total: Any) -> None:
    signs, divisors = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    zero, one = np.float32(0), np.float32(1)
    for start in range(0, total.size, BLOCK):
        stop = min(start + BLOCK, total.size)
        part, sign, divisor = total[start:stop], signs[: stop - start], divisors[: stop - start]
        sign[:] = values_MN[0, start:stop]
        for i in range(1, len(coefficient)):
            values = values_MN[i, start:stop]
            for j in range(part.size):
                sign[j] += values[j]
        for j in range(part.size):
            sign[j] = one if sign[j] >= 0 else -one
        if inside.size:
            for j in range(part.size):
                sign[j] *= inside[start + j]
        part[:], divisor[:] = zero, zero
        for i in range(len(coefficient)):
            values, share = values_MN[i, start:stop], coefficient[i]
            for j in range(part.size):
                agreeing = share if values[j] * sign[j] > 0 else zero
                part[j] += values[j] * agreeing
                divisor[j] += agreeing
        for j in range(part.size):
            part[j] /= divisor[j] if divisor[j] > 0 else one
