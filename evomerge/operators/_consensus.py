"""Steps that several operators share: weighted sums, divisors, sign election.

They are sums, products and comparisons without a mask: `relu`, `sign` and `copysign` are several
times as fast as ``torch.where`` on a CPU. No product is fused with a sum, so that every machine
gives the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from evomerge.operators._memory import scratch

Consensus = Literal["sum", "count"]
Negative = Literal["subtract", "elect"]


def weighted_sum(values_M: Tensor, weight: Sequence[float]) -> Tensor:
    """Σ w_i x_i over the first axis; may overwrite ``values_M``."""
    total = scaled(values_M[0], weight[0])
    for values, w in zip(values_M[1:], weight[1:], strict=True):
        total += scaled(values, w)
    return total


def scaled(values: Tensor, factor: float) -> Tensor:
    """The values times a factor, in place."""
    return values if factor == 1 else values.mul_(factor)


def plain_divisor(weight: Sequence[float], *, signed: bool = True) -> float:
    """Σ w_i, or 1 where that vanishes (rule R5).

    Args:
        weight: (M,).
        signed: for weights; for task vectors it is |Σ w_i|, so that what is subtracted does not
            come back as added.
    """
    total = math.fsum(weight)
    total = total if signed else abs(total)
    return 1.0 if abs(total) < 1e-8 else total


def kept_count(density: float, size: int) -> int:
    """How many of ``size`` elements a density keeps: ⌊d·n⌋, at least one (rule R2)."""
    if density <= 0:
        return 0
    return min(size, max(1, math.floor(density * size + 1e-6)))


def consensus_sum(
    values_M: Tensor,
    weight: Sequence[float],
    *,
    normalize: bool,
    consensus: Consensus = "sum",
    negative: Negative = "subtract",
) -> Tensor:
    """Σ w_i τ_i over the entries that agree with the elected sign.

    Args:
        values_M: (M, ...) task vectors; is overwritten.
        weight: (M,) any sign.
        normalize: divide by Σ |w_i| over the entries that take part.
        consensus: elect by the ``sum`` of the weighted values or by the ``count`` of signs.
        negative: ``subtract`` lets the sources of non-negative weight elect, and subtracts the
            others afterwards; ``elect`` lets every weighted task vector vote, as mergekit does.

    Source: rules R4 and R5; subtraction as in Ilharco et al. 2023, arXiv:2212.04089.
    """
    for values, w in zip(values_M, weight, strict=True):
        scaled(values, w)
    votes = [i for i, w in enumerate(weight) if w >= 0 or negative == "elect"]
    others = [i for i in range(len(weight)) if i not in votes]
    total: Tensor | None = None
    if votes:
        elected = _elect(values_M, votes, consensus)
        for i in votes:
            agreeing = values_M[i].mul_(elected).relu_()  # magnitudes; zero where it disagrees
            total = agreeing.clone() if total is None else total.add_(agreeing)
        assert total is not None
        total.mul_(elected)
    for i in others:
        total = values_M[i].clone() if total is None else total.add_(values_M[i])
    assert total is not None
    return total.div_(_participation(values_M, weight)) if normalize else total


def _participation(values_M: Tensor, weight: Sequence[float]) -> Tensor:
    """Σ |w_i| over the entries that are not zero, 1 where all are (rule R5)."""
    divisor = torch.zeros_like(values_M[0])
    for values, w in zip(values_M, weight, strict=True):
        divisor += scaled(values.sign_().abs_(), abs(w))
    return nonzero(divisor)


def _elect(values_M: Tensor, votes: Sequence[int], consensus: Consensus) -> Tensor:
    """+1 or -1 for each entry (rule R4)."""
    first, *rest = votes
    total = scratch("elected", values_M[first]).copy_(values_M[first])
    if consensus == "count":
        total.sign_()
    for i in rest:
        total += values_M[i].sign() if consensus == "count" else values_M[i]
    return elected_sign(total)


def elected_sign(total: Tensor) -> Tensor:
    """+1 where the total is zero or more, else -1 (rule R4); overwrites ``total``."""
    total += 0.0  # -0.0 elects plus
    return torch.copysign(torch.ones((), device=total.device), total, out=total)


def nonzero(divisor: Tensor) -> Tensor:
    """A non-negative divisor with its zeros replaced by ones, in place (rule R5)."""
    sign = torch.sign(divisor, out=scratch("sign", divisor))
    return divisor.add_(sign.neg_().add_(1))
