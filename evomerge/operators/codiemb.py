"""Task vectors averaged in proportion to their deviation from the base."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from evomerge.kernels.stack import Merged, Stack
from evomerge.operators import operator
from evomerge.operators.varm import varm


@operator(
    on="task_vectors",
    averages=True,
    paper_defaults={"q": 1.0},
    paper="Zhang et al. 2025, arXiv:2508.11442; the formula is ours",
    experimental=True,
)
def codiemb(x: Stack, *, q: Annotated[float, Field(ge=0)] = 1.0, lam: float = 1.0) -> Merged:
    """λ Σ w_i τ_i with w_i ∝ mean(τ_i²)^(q/2), computed for each tensor.

    Only the abstract was available. It derives weights from each parameter's deviation from its
    pretrained value. This reading of it is ours; do not report it as the paper's method.

    Args:
        x: M task vectors.
        q: 1 weighs by the deviation's size; ``varm`` is 2.
        lam: scale of the average.

    Source: CoDiEmb, Zhang et al. 2025, arXiv:2508.11442, abstract.
    """
    return varm.function(x, q=q, lam=lam)
