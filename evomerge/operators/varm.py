"""VaRM: task vectors averaged in proportion to their variation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor

from evomerge.kernels.measures import Measures, measures, sums
from evomerge.kernels.stack import Merged, Stack
from evomerge.kernels.sums import weighted
from evomerge.operators import operator


@operator(
    on="task_vectors",
    averages=True,
    paper_defaults={"q": 2.0},
    paper="Wan et al. 2024, arXiv:2402.16107",
)
def varm(x: Stack, *, q: Annotated[float, Field(ge=0)] = 2.0, lam: float = 1.0) -> Merged:
    """λ Σ w_i τ_i with w_i ∝ mean(τ_i²)^(q/2), computed for each tensor.

    Args:
        x: M task vectors.
        q: 2 as published, 0 for equal weights. Where all task vectors are zero they are equal.
        lam: scale of the average.

    Source: FuseChat, Wan et al. 2024, arXiv:2402.16107, at matrix level.
    """
    return weighted(x, shares(squares(measures(x)).tolist(), q), factor=lam)


def shares(sizes: Sequence[float], q: float = 2.0) -> list[float]:
    """(M,) weights ∝ s_i^(q/2) that sum to 1; equal if all s_i are zero.

    Args:
        sizes: (M,) sums of squares s_i.
        q: power of the norm.
    """
    largest = max(sizes)
    powers = [(s / largest) ** (q / 2) for s in sizes] if largest > 0 else [1.0] * len(sizes)
    return [p / math.fsum(powers) for p in powers]


def squares(measure: Measures) -> Tensor:
    """(M,) float64: Σ τ_i² over the elements."""
    return measure.once(
        "squares", lambda: measure.total(lambda tile: sums(tile.values.flatten(1).square_()))
    )
