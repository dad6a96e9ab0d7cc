"""Steps that several task-vector operators share: trimming, sign election, disjoint sums."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Consensus = Literal["sum", "count"]


def weighted_sum(tensors_M: Tensor, weight: Tensor) -> Tensor:
    """Σ w_i x_i over the first axis, the same bits whatever the chunking or thread count."""
    # A product, then a sum: a fused multiply-add differs between vector body and tail.
    total = tensors_M[0] * weight[0]
    for tensor, w in zip(tensors_M[1:], weight[1:], strict=True):
        total += tensor * w
    return total


def plain_divisor(weight: Tensor) -> float:
    """Σ w_i, or 1 where that vanishes (rule R5)."""
    total = float(weight.double().sum())
    return 1.0 if abs(total) < 1e-8 else total


def kept_count(density: float, size: int) -> int:
    """How many of ``size`` elements a density keeps: ⌊d·n⌋, at least one (rule R2)."""
    if density <= 0:
        return 0
    return min(size, max(1, math.floor(density * size + 1e-6)))


def keep_largest(tensor: Tensor, density: float) -> Tensor:
    """The tensor with all but its ``density`` largest magnitudes set to zero.

    Of equal magnitudes the one with the lower flat index stays (rule R3).
    """
    size = tensor.numel()
    count = kept_count(density, size)
    if count == size:
        return tensor
    if count == 0:
        return torch.zeros_like(tensor)
    magnitude = tensor.abs().flatten()
    threshold = magnitude.kthvalue(size - count + 1).values
    keep = magnitude > threshold
    level = (magnitude == threshold).nonzero().flatten()
    keep[level[: count - int(keep.sum())]] = True
    return tensor * keep.view_as(tensor)


def elect(signed_M: Tensor, consensus: Consensus) -> Tensor:
    """(M, *shape) mask of the entries that agree with the elected sign (rule R4).

    An exact zero never agrees; a zero sum elects plus.
    """
    votes = signed_M.sign() if consensus == "count" else signed_M
    total = weighted_sum(votes, torch.ones(len(votes)))
    elected = torch.where(total >= 0, 1.0, -1.0)
    return signed_M.sign() == elected


def consensus_sum(
    deltas_M: Tensor, weight: Tensor, *, normalize: bool, consensus: Consensus
) -> Tensor:
    """Σ w_i τ_i over the agreeing entries, divided by Σ |w_i| over them if ``normalize``."""
    weighted_M = deltas_M * weight.view(-1, *[1] * (deltas_M.dim() - 1))
    agree_M = elect(weighted_M, consensus)
    ones = torch.ones_like(weight)
    total = weighted_sum(weighted_M * agree_M, ones)
    if not normalize:
        return total
    # Absolute weights: with Σ w_i a single source at -1 would come back as +τ (rule R5).
    divisor = weighted_sum(agree_M.float(), weight.abs())
    return total / torch.where(divisor == 0, 1.0, divisor)
