"""VaRM: task vectors averaged in proportion to their variation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from evomerge.kernels.stack import Merged, Stack
from evomerge.operators._deviation import averaged_by_size
from evomerge.operators._operator import operator


@operator(on="task_vectors", paper_defaults={"q": 2.0}, paper="Wan et al. 2024, arXiv:2402.16107")
def varm(x: Stack, *, q: Annotated[float, Field(ge=0)] = 2.0, lam: float = 1.0) -> Merged:
    """λ Σ w_i τ_i with w_i ∝ mean(τ_i²)^(q/2), in each tensor anew.

    Args:
        x: M task vectors.
        q: 2 as published, 0 for equal weights. Where all task vectors are zero they are equal.
        lam: scale of the average.

    Source: FuseChat, Wan et al. 2024, arXiv:2402.16107, at matrix level.
    """
    return averaged_by_size(x, q, lam)
