"""TIES: trim, elect sign, merge what agrees."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from evomerge.operators._consensus import Consensus, consensus_sum, keep_largest, weighted_sum
from evomerge.operators._operator import Bound, operator


@operator(
    on="task_vectors",
    per_source={"weight": Bound(1.0), "density": Bound(1.0, above=0.0, most=1.0)},
    textbook={"weight": 1.0, "density": 0.2},
    paper="Yadav et al. 2023, arXiv:2306.01708",
)
def ties(
    deltas_M: Tensor,
    *,
    weight: Tensor,
    density: Tensor,
    lam: float = 1.0,
    normalize: bool = True,
    consensus: Consensus = "sum",
    variant: Literal["weighted", "paper"] = "weighted",
) -> Tensor:
    """Sum the task vectors that agree with the elected sign.

    Args:
        deltas_M: (M, *shape) float32, source minus base.
        weight: (M,) any sign.
        density: (M,) fraction of each task vector kept by magnitude, in (0, 1].
        lam: scale of the result.
        normalize: divide by the absolute weight of the sources that agree.
        consensus: elect by the ``sum`` of the weighted values or by the ``count`` of signs.
        variant: ``paper`` averages without weights and lets a zero sum follow the majority.

    Returns:
        (*shape) float32, to be added to the base.

    Source: Yadav et al. 2023, arXiv:2306.01708, Algorithm 1.
    """
    trimmed_M = torch.stack(
        [keep_largest(delta, float(d)) for delta, d in zip(deltas_M, density, strict=True)]
    )
    if variant == "paper":
        return lam * _unweighted_mean(trimmed_M)
    return lam * consensus_sum(trimmed_M, weight, normalize=normalize, consensus=consensus)


def _unweighted_mean(trimmed_M: Tensor) -> Tensor:
    """The authors' code: an undecided position follows the majority sign of the tensor.

    When that is undecided too, their comparison picks the negative entries.
    """
    ones = torch.ones(len(trimmed_M))
    elected = weighted_sum(trimmed_M, ones).sign()
    majority = elected.sum(dtype=torch.float64).sign().float()
    elected = torch.where(elected == 0, majority, elected)
    agree_M = torch.where(elected > 0, trimmed_M > 0, trimmed_M < 0)
    count = weighted_sum(agree_M.float(), ones).clamp(min=1)
    return weighted_sum(trimmed_M * agree_M, ones) / count
