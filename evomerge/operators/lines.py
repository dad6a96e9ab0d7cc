"""Weighted sum of task vectors, scaled by the depth of the block."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from evomerge.errors import OperatorError
from evomerge.kernels.stack import Merged, Stack
from evomerge.kernels.sums import weighted
from evomerge.operators import Bound, Floats, operator


@operator(
    on="either",
    per_source={"weight": Bound(1.0)},
    paper_defaults={"alpha": 0.5, "beta": 0.5},
    paper="Wang et al. 2024, arXiv:2410.17146",
)
def lines(
    x: Stack,
    *,
    weight: Floats,
    alpha: float = 0.5,
    beta: float = 0.5,
    layer: Annotated[int, Field(ge=0)] | None = None,
    num_layers: Annotated[int, Field(ge=1)] = 1,
) -> Merged:
    """(α + β l / (L - 1)) Σ w_i τ_i in block l of L; α Σ w_i τ_i outside the blocks.

    Every operator on task vectors takes the same step last if given ``lines_alpha`` and
    ``lines_beta``.

    Args:
        x: M task vectors.
        weight: (M,) any sign.
        alpha: factor of the first block.
        beta: by how much more the last block counts.
        layer: l, from 0; null for the tensor's own, if the model is known.
        num_layers: L, where a layer is given.

    Raises:
        OperatorError: a layer that is not below ``num_layers``.

    Source: LiNeS, Wang et al. 2024, arXiv:2410.17146.
    """
    factor = alpha if x.depth is None else alpha + beta * x.depth
    if layer is not None:
        if layer >= num_layers:
            raise OperatorError(f"lines: layer {layer} of {num_layers}. Raise num_layers.")
        factor = alpha + (beta * layer / (num_layers - 1) if num_layers > 1 else beta)
    return weighted(x, weight, factor=factor)
