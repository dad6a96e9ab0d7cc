"""EMR: the elected, unified task vector; and what serves single tasks from it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from evomerge.kernels.consensus import elected_sign, scaled
from evomerge.kernels.stack import Merged, Stack
from evomerge.operators._operator import operator


@operator(
    on="task_vectors", paper_defaults={"lam": 0.4}, paper="Huang et al. 2024, arXiv:2405.17461"
)
def emr(x: Stack, *, lam: float = 1.0) -> Merged:
    """λ e ⊙ max |τ_i| over the sources that agree with the sign e of Στ.

    The paper serves every task by W_0 + r_i · m_i ⊙ u, with the masks and rescalers of this
    module. A single model can only be W_0 + λ u.

    Args:
        x: M task vectors.
        lam: scale of the unified task vector.

    Source: Huang et al. 2024, arXiv:2405.17461.
    """
    return x.each(lambda tile: scaled(unified(tile.values), lam))


def unified(values_M: Tensor) -> Tensor:
    """(...) the largest magnitude among the sources that agree with the elected sign, signed.

    Args:
        values_M: (M, ...) task vectors; a sum of zero elects minus.
    """
    elected = _elected(values_M)
    return (values_M * elected).relu_().amax(0).mul_(elected)


def masks(values_M: Tensor) -> Tensor:
    """(M, ...) 1 where a source agrees with the elected sign, else 0.

    Args:
        values_M: (M, ...) task vectors.
    """
    return (values_M * _elected(values_M)).relu_().sign_()


def rescalers(tensors: Sequence[Tensor]) -> list[float]:
    """(M,) factors that give each masked unified task vector its source's mean magnitude.

    Means are taken in each tensor and added up, as the authors' code does, so that a small tensor
    counts as much as a large one. Where the masked vector is zero the factor is 1.

    Args:
        tensors: one (M, ...) stack of task vectors for each tensor of the model.
    """
    count = len(tensors[0])
    found = []
    for i in range(count):
        own = [_mean(values[i].abs()) for values in tensors]
        masked = [_mean((unified(values) * masks(values)[i]).abs()) for values in tensors]
        found.append(math.fsum(own) / math.fsum(masked) if any(masked) else 1.0)
    return found


def _elected(values_M: Tensor) -> Tensor:
    """+1 where the sum is positive, else -1."""
    return -elected_sign(-values_M.sum(0))


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
