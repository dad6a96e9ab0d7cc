"""EMR: the largest entries that agree with the elected sign, as one task vector."""

from __future__ import annotations

from torch import Tensor

from evomerge.kernels.consensus import elected_sign, scaled
from evomerge.kernels.stack import Merged, Stack
from evomerge.operators import operator


@operator(
    on="task_vectors", paper_defaults={"lam": 0.4}, paper="Huang et al. 2024, arXiv:2405.17461"
)
def emr(x: Stack, *, lam: float = 1.0) -> Merged:
    """λ e ⊙ max |τ_i| over the sources that agree with the sign e of Στ.

    The paper serves every task i by a model of its own, W_0 + r_i m_i ⊙ u, with masks m_i and
    factors r_i. A single model can only be W_0 + λ u.

    Args:
        x: M task vectors.
        lam: scale of the unified task vector.

    Source: Huang et al. 2024, arXiv:2405.17461.
    """
    return x.each(lambda tile: scaled(unified(tile.values), lam))


def unified(values_M: Tensor) -> Tensor:
    """(...) the largest magnitude among the sources that agree with the elected sign, signed."""
    elected = -elected_sign(-values_M.sum(0))  # a sum of zero elects minus
    return (values_M * elected).relu_().amax(0).mul_(elected)
