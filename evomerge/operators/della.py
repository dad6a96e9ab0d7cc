"""DELLA: drop elements at random, small ones more often, then elect signs."""

from __future__ import annotations

from evomerge.kernels.choices import Consensus, Negative, Rescale
from evomerge.kernels.stack import Merged, Stack
from evomerge.kernels.sums import summed
from evomerge.operators import Bound, Floats, operator
from evomerge.operators._modifiers import DENSITY, EPSILON
from evomerge.operators._sparsify import sparsified


@operator(
    on="task_vectors",
    per_source={"weight": Bound(1.0), "density": DENSITY, "epsilon": EPSILON},
    paper_defaults={"density": 0.7, "epsilon": 0.07, "lam": 1.1},
    paper="Deep et al. 2024, arXiv:2406.11617",
    random=True,
)
def della(
    x: Stack,
    *,
    weight: Floats,
    density: Floats,
    epsilon: Floats,
    lam: float = 1.0,
    normalize: bool = True,
    consensus: Consensus | None = "sum",
    negative: Negative = "subtract",
    rescale: Rescale = "inverse",
) -> Merged:
    """Task vectors pruned by rank, summed where they agree with the elected sign.

    An element is kept with probability p = d - ε + 2ε·ρ/(c - 1), where ρ = 0 ... c - 1 is the
    rank of its magnitude among the c elements of its row. A density of 1 keeps everything.

    Args:
        x: M task vectors.
        weight: (M,) any sign.
        density: (M,) mean probability d of keeping an element, in [0, 1].
        epsilon: (M,) half the spread of the probabilities; d - ε and d + ε must lie in (0, 1). The
            authors' ``window_size`` is 2ε.
        lam: scale of the result.
        normalize: divide by the absolute weight of the sources that agree.
        consensus: elect by the ``sum`` of the weighted values or by the ``count`` of signs; null
            adds up everything, as ``della_linear`` does.
        negative: as in ``ties``.
        rescale: ``inverse`` divides each element by its own probability (the paper), ``l1``
            restores the sum of magnitudes (mergekit), ``none``.

    Raises:
        OperatorError: density and epsilon leave (0, 1).

    Source: Deep et al. 2024, arXiv:2406.11617.
    """
    x = sparsified(x, density, method="della", rescale=rescale, epsilon=epsilon)
    return summed(x, weight, lam=lam, normalize=normalize, consensus=consensus, negative=negative)
