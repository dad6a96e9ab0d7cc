"""DARE, then the sign election of TIES."""

from __future__ import annotations

from evomerge.kernels.choices import Consensus, Negative, Rescale
from evomerge.kernels.stack import Merged, Stack
from evomerge.kernels.sums import summed
from evomerge.operators import Bound, Floats, operator
from evomerge.operators._modifiers import DENSITY
from evomerge.operators._sparsify import sparsified


@operator(
    on="task_vectors",
    per_source={"weight": Bound(1.0), "density": DENSITY},
    paper_defaults={"weight": 0.5, "density": 0.5},
    paper="Yu et al. 2024, arXiv:2311.03099; Yadav et al. 2023, arXiv:2306.01708",
    random=True,
)
def dare_ties(
    x: Stack,
    *,
    weight: Floats,
    density: Floats,
    lam: float = 1.0,
    normalize: bool = False,
    consensus: Consensus = "sum",
    negative: Negative = "subtract",
    rescale: Rescale = "inverse",
) -> Merged:
    """Randomly masked task vectors, summed where they agree with the elected sign.

    Args:
        x: M task vectors.
        weight: (M,) any sign.
        density: (M,) probability of keeping an element, in [0, 1].
        lam: scale of the result.
        normalize: divide by the absolute weight of the sources that agree.
        consensus: elect by the ``sum`` of the weighted values or by the ``count`` of signs.
        negative: as in ``ties``.
        rescale: as in ``dare_linear``.

    Source: Yu et al. 2024, arXiv:2311.03099; Yadav et al. 2023, arXiv:2306.01708.
    """
    x = sparsified(x, density, method="random", rescale=rescale)
    return summed(x, weight, lam=lam, normalize=normalize, consensus=consensus, negative=negative)
