"""Task vectors added up with coefficients that were learned for each tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from evomerge.kernels.consensus import weighted_sum
from evomerge.kernels.stack import Merged, Stack
from evomerge.operators._bound import Bound, Floats
from evomerge.operators._operator import operator


@operator(
    on="task_vectors",
    per_source={"coefficient": Bound(0.3)},
    paper_defaults={"coefficient": 0.3},
    paper="Yang et al. 2024, arXiv:2310.02575",
)
def adamerging(x: Stack, *, coefficient: Floats, clamp: bool = True) -> Merged:
    """Σ λ_i τ_i, with λ_i from a table.

    A recipe states the table: one value for each source, or one for each source and block, role
    or tensor. `entropy` is what the paper's training minimizes.

    Args:
        x: M task vectors.
        coefficient: (M,) the λ_i of this tensor.
        clamp: limit them to [0, 1].

    Source: AdaMerging, Yang et al. 2024, arXiv:2310.02575.
    """
    if clamp:
        coefficient = tuple(min(max(c, 0.0), 1.0) for c in coefficient)
    return x.each(lambda tile: weighted_sum(tile.values, coefficient))


def entropy(logits: Tensor) -> Tensor:
    """The mean Shannon entropy of predictions, in nats.

    Args:
        logits: (..., classes) of any float dtype.

    Source: Yang et al. 2024, arXiv:2310.02575.
    """
    found: Tensor = torch.special.entr(logits.float().softmax(-1))
    return found.sum(-1).mean()
