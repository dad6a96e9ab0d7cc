"""Model Breadcrumbs: drop the outliers and the small elements, add up the rest."""

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
    paper_defaults={"density": 0.15, "gamma": 0.006, "lam": 0.2},
    paper="Davari and Belilovsky 2024, arXiv:2312.06795",
)
def breadcrumbs(
    x: Stack,
    *,
    weight: Floats,
    density: Floats,
    gamma: Floats,
    per_row: bool = False,
    lam: float = 1.0,
    normalize: bool = False,
    consensus: Consensus | None = None,
    negative: Negative = "subtract",
) -> Merged:
    """λ Σ w_i m_i ⊙ τ_i, where m_i leaves out outliers and small elements.

    The ⌊γn⌋ of n elements with the largest magnitudes are dropped, the next ⌊dn⌋ are kept and the
    others dropped; where d + γ > 1 fewer outliers are. With γ = 0 it is plain trimming.

    Args:
        x: M task vectors.
        weight: (M,) any sign.
        density: (M,) fraction d kept, in [0, 1].
        gamma: (M,) fraction γ dropped as outliers, in [0, 1).
        per_row: whether n is a row (the paper's code) or the tensor (mergekit).
        lam: scale of the result.
        normalize: divide by |Σ w_i|; with an election by the weight of the sources that agree.
        consensus: null adds up everything; ``sum`` and ``count`` elect signs as in ``ties``.
        negative: as in ``ties``.

    Source: Davari and Belilovsky 2024, arXiv:2312.06795.
    """
    x = sparsified(x, density, method="breadcrumbs", gamma=gamma, per_row=per_row)
    return summed(x, weight, lam=lam, normalize=normalize, consensus=consensus, negative=negative)
