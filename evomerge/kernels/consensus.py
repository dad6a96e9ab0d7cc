"""Steps that several operators share: weighted sums, divisors, sign election.

On a CPU they are compiled loops that give the same bits as the torch operations used on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.errors import OperatorError
from evomerge.kernels.choices import Consensus, Negative
from evomerge.kernels.compiled import BLOCK, array, compiled, fits, rows
from evomerge.kernels.memory import scratch

_ZERO, _ONE = np.float32(0), np.float32(1)


def weighted_sum(values_M: Tensor, weight: Sequence[float]) -> Tensor:
    """(...) Σ w_i x_i over the first axis of (M, ...) float32, which may be overwritten."""
    if fits(values_M):
        _weighted_sum(rows(values_M), np.array(weight, np.float32))
        return values_M[0]
    total = scaled(values_M[0], weight[0])
    for values, w in zip(values_M[1:], weight[1:], strict=True):
        total += scaled(values, w)
    return total


def scaled(values: Tensor, factor: float) -> Tensor:
    """The values times a factor, in place."""
    return values if factor == 1 else values.mul_(factor)


def divided(values: Tensor, divisor: float) -> Tensor:
    """The values divided by a number, in place."""
    # CUDA multiplies by the reciprocal of a Python number, which rounds differently
    return values.div_(torch.full((), divisor, device=values.device))


def plain_divisor(weight: Sequence[float], *, signed: bool = True) -> float:
    """Σ w_i, by which an average divides, or 1 if that is below 1e-8 in magnitude (rule R5).

    Args:
        weight: (M,) any sign.
        signed: False gives |Σ w_i|, for task vectors: a negative sum would turn subtraction into
            addition.

    Raises:
        OperatorError: weights of models that cancel: their sum is a difference and no average.
    """
    total = math.fsum(weight)
    total = total if signed else abs(total)
    if abs(total) >= 1e-8:
        return total
    if signed and any(abs(w) >= 1e-8 for w in weight):
        *most, last = [f"{w:g}" for w in weight if w]
        raise OperatorError(
            f"parameters: weights {', '.join(most)} and {last} add up to 0, by which no average "
            "can be divided. Change one of them."
        )
    return 1.0


def kept_count(density: float, size: int) -> int:
    """⌊d·n⌋, how many of n = ``size`` elements a density d > 0 keeps, at least one (rule R2)."""
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
        negative: ``subtract``: sources of negative weight do not vote, and are subtracted after
            the election; ``elect``: every weighted task vector votes, as in mergekit.

    Source: rules R4 and R5; subtraction as in Ilharco et al. 2023, arXiv:2212.04089.
    """
    votes = [w >= 0 or negative == "elect" for w in weight]
    if not fits(values_M):
        return _consensus_sum_by_torch(values_M, weight, votes, normalize, consensus)
    total = scratch("merged", values_M[0])
    _consensus_sum(
        rows(values_M),
        np.array(weight, np.float32),
        np.array(votes),
        consensus == "count",
        normalize,
        array(total.view(-1)),
    )
    return total


def _consensus_sum_by_torch(
    values_M: Tensor,
    weight: Sequence[float],
    votes: Sequence[bool],
    normalize: bool,
    consensus: Consensus,
) -> Tensor:
    """`consensus_sum` in torch operations, for any device."""
    for values, w in zip(values_M, weight, strict=True):
        scaled(values, w)
    total = torch.zeros_like(values_M[0])
    if any(votes):
        voting = [i for i, votes_too in enumerate(votes) if votes_too]
        elected = _elect(values_M, voting, consensus)
        for i in voting:
            total += values_M[i].mul_(elected).relu_()  # magnitudes; zero where it disagrees
        total.mul_(elected)
    for values, votes_too in zip(values_M, votes, strict=True):
        if not votes_too:
            total += values
    if not normalize:
        return total
    divisor = torch.zeros_like(total)  # Σ |w_i| over the sources whose entry is not zero
    for values, w in zip(values_M, weight, strict=True):
        divisor += scaled(values.sign_().abs_(), abs(w))
    return total.div_(nonzero(divisor))


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
    """A non-negative divisor, its zeros replaced by ones in place (rule R5)."""
    sign = torch.sign(divisor, out=scratch("sign", divisor))
    return divisor.add_(sign.neg_().add_(1))


@compiled
def _weighted_sum(values_MN: Any, weight: Any) -> None:
    """Writes the sum to the first row."""
    size = values_MN.shape[1]
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        total = values_MN[0, start:stop]
        for j in range(total.size):
            total[j] *= weight[0]
        for i in range(1, len(weight)):
            values = values_MN[i, start:stop]
            for j in range(total.size):
                total[j] += values[j] * weight[i]


@compiled
def _consensus_sum(
    values_MN: Any, weight: Any, votes: Any, by_count: bool, normalize: bool, total: Any
) -> None:
    signs, divisors = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for start in range(0, total.size, BLOCK):
        stop = min(start + BLOCK, total.size)
        part, sign, divisor = total[start:stop], signs[: stop - start], divisors[: stop - start]
        first = True
        for i in range(len(weight)):
            if votes[i]:
                _vote(values_MN[i, start:stop], weight[i], by_count, first, sign)
                first = False
        first = True
        for i in range(len(weight)):
            if votes[i]:
                values = values_MN[i, start:stop]
                _add_agreeing(values, weight[i], sign, first, part, divisor)
                first = False
        if first:
            part[:], divisor[:] = _ZERO, _ZERO
        else:
            for j in range(part.size):
                part[j] *= sign[j]
        for i in range(len(weight)):
            if not votes[i]:
                _add_all(values_MN[i, start:stop], weight[i], part, divisor)
        if normalize:
            for j in range(part.size):
                part[j] /= divisor[j] if divisor[j] > 0 else _ONE


@compiled
def _vote(values: Any, weight: Any, by_count: bool, first: bool, sign: Any) -> None:
    if first:
        for j in range(sign.size):
            sign[j] = values[j] * weight
        if by_count:
            for j in range(sign.size):
                sign[j] = np.float32(sign[j] > 0) - np.float32(sign[j] < 0)
    elif by_count:
        for j in range(sign.size):
            value = values[j] * weight
            sign[j] += np.float32(value > 0) - np.float32(value < 0)
    else:
        for j in range(sign.size):
            sign[j] += values[j] * weight


@compiled
def _add_agreeing(
    values: Any, weight: Any, sign: Any, first: bool, total: Any, divisor: Any
) -> None:
    """Add a source's magnitudes where it agrees with the election, and its weight to the divisor.

    The first source turns the sums of the votes in ``sign`` into +1 or -1 (rule R4).
    """
    share = abs(weight)
    if first:
        for j in range(total.size):
            elected = _ONE if sign[j] >= 0 else -_ONE
            value = values[j] * weight * elected
            sign[j] = elected
            total[j] = value if value > 0 else _ZERO
            divisor[j] = share if value > 0 else _ZERO
    else:
        for j in range(total.size):
            value = values[j] * weight * sign[j]
            total[j] += value if value > 0 else _ZERO
            divisor[j] += share if value > 0 else _ZERO


@compiled
def _add_all(values: Any, weight: Any, total: Any, divisor: Any) -> None:
    share = abs(weight)
    for j in range(total.size):
        value = values[j] * weight
        total[j] += value
        divisor[j] += share if value != 0 else _ZERO
