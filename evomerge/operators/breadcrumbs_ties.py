"""Model Breadcrumbs, then the sign election of TIES."""

from __future__ import annotations

from evomerge.kernels.choices import Consensus, Negative
from evomerge.kernels.stack import Merged, Stack
from evomerge.kernels.sums import summed
from evomerge.operators import Bound, Floats, operator
from evomerge.operators._modifiers import DENSITY, GAMMA
from evomerge.operators._sparsify import sparsified


@operator(
    on="task_vectors",
    per_source={"weight": Bound(1.0), "density": DENSITY, "gamma": GAMMA},
    paper_defaults={"density": 0.3, "gamma": 0.01, "lam": 0.4},
    paper="Davari and Belilovsky 2024, arXiv:2312.06795; Yadav et al. 2023, arXiv:2306.01708",
)
def breadcrumbs_ties(
    x: Stack,
    *,
    weight: Floats,
    density: Floats,
    gamma: Floats,
    per_row: bool = False,
    lam: float = 1.0,
    normalize: bool = False,
    consensus: Consensus = "sum",
    negative: Negative = "subtract",
) -> Merged:
    """Task vectors without outliers and small elements, summed where they agree in sign.

    Args:
        x: M task vectors.
        weight: (M,) any sign.
        density: (M,) fraction kept, in [0, 1].
        gamma: (M,) fraction dropped as outliers, in [0, 1), as in ``breadcrumbs``.
        per_row: whether the largest are counted in each row or in the tensor.
        lam: scale of the result.
        normalize: divide by the absolute weight of the sources that agree.
        consensus: elect by the ``sum`` of the weighted values or by the ``count`` of signs.
        negative: as in ``ties``.

    Source: Davari and Belilovsky 2024, arXiv:2312.06795; Yadav et al. 2023, arXiv:2306.01708.
    """
    x = sparsified(x, density, method="breadcrumbs", gamma=gamma, per_row=per_row)
    return summed(x, weight, lam=lam, normalize=normalize, consensus=consensus, negative=negative)
