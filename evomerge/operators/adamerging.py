"""Task vectors added up with coefficients that were learned for each tensor."""

from __future__ import annotations

from evomerge.kernels.stack import Merged, Stack
from evomerge.kernels.sums import weighted
from evomerge.operators import Bound, Floats, operator


@operator(
    on="task_vectors",
    per_source={"coefficient": Bound(0.3)},
    weights="coefficient",
    paper_defaults={"coefficient": 0.3},
    paper="Yang et al. 2024, arXiv:2310.02575",
)
def adamerging(x: Stack, *, coefficient: Floats, clamp: bool = True) -> Merged:
    """Σ λ_i τ_i, with λ_i from a table.

    A recipe states the table: one value for each source, or one for each source and block, role
    or tensor. The paper learns it by lowering the mean entropy of predictions.

    Args:
        x: M task vectors.
        coefficient: (M,) the λ_i of this tensor.
        clamp: limit them to [0, 1].

    Source: AdaMerging, Yang et al. 2024, arXiv:2310.02575.
    """
    return weighted(x, [min(max(c, 0.0), 1.0) for c in coefficient] if clamp else coefficient)
