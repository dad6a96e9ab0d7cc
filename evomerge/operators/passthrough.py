"""One model's weights, perhaps scaled."""

from __future__ import annotations

from evomerge.kernels.stack import Merged, Stack
from evomerge.kernels.sums import weighted
from evomerge.operators import Bound, Floats, operator


@operator(
    on="weights",
    per_source={"scale": Bound(1.0)},
    factor="scale",
    paper="Goddard et al. 2024, arXiv:2403.13257",
    sources=1,
)
def passthrough(x: Stack, *, scale: Floats) -> Merged:
    """The weights times a scale: for models put together from the blocks of others.

    Args:
        x: the weights of one source.
        scale: (1,) any sign; 1 keeps every bit.

    Source: Goddard et al. 2024, arXiv:2403.13257 (mergekit).
    """
    return weighted(x, scale)
