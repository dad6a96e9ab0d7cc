"""DARE, then the sign election of TIES."""

from __future__ import annotations

from torch import Tensor

from evomerge.operators._consensus import Consensus, consensus_sum
from evomerge.operators._masks import Rescale, drop_and_rescale
from evomerge.operators._operator import Bound, operator


@operator(
    on="task_vectors",
    per_source={"weight": Bound(1.0), "density": Bound(1.0, above=0.0, most=1.0)},
    textbook={"weight": 0.5, "density": 0.5},
    paper="Yu et al. 2024, arXiv:2311.03099; Yadav et al. 2023, arXiv:2306.01708",
)
def dare_ties(
    deltas_M: Tensor,
    *,
    weight: Tensor,
    density: Tensor,
    uniforms: Tensor,
    lam: float = 1.0,
    normalize: bool = False,
    consensus: Consensus = "sum",
    rescale: Rescale = "inverse",
) -> Tensor:
    """Randomly masked task vectors, summed where they agree with the elected sign.

    Args:
        deltas_M: (M, *shape) float32, source minus base.
        weight: (M,) any sign.
        density: (M,) probability of keeping an element, in (0, 1].
        uniforms: (M, *shape) in [0, 1); an element stays where it is below the density.
        lam: scale of the result.
        normalize: divide by the absolute weight of the sources that agree.
        consensus: elect by the ``sum`` of the weighted values or by the ``count`` of signs.
        rescale: as in ``dare_linear``.

    Returns:
        (*shape) float32, to be added to the base.

    Source: Yu et al. 2024, arXiv:2311.03099; Yadav et al. 2023, arXiv:2306.01708.
    """
    kept_M = drop_and_rescale(deltas_M, density, uniforms, rescale)
    return lam * consensus_sum(kept_M, weight, normalize=normalize, consensus=consensus)
