"""Move from one model towards another by at most a given step."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from evomerge.kernels.stack import Merged, Stack, Tile
from evomerge.operators import operator


@operator(
    on="pair",
    paper_defaults={"t": 1e-4},
    paper="alchemonaut 2024, huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
)
def nearswap(x: Stack, *, t: Annotated[float, Field(ge=0)] = 1e-4) -> Merged:
    """W_1 + clip(W_2 - W_1, -t, t).

    Elements that differ by less than t are swapped for the second model's; the others go as far.

    Args:
        x: two weights: of two sources, or of the base and one source.
        t: the longest step of an element, in the weights' own unit.

    Source: alchemonaut 2024, QuartetAnemoi-70B; mergekit's ``nearswap`` in closed form.
    """

    def kernel(tile: Tile) -> Tensor:
        first, second = tile.values.unbind()
        return second.sub_(first).clamp_(-t, t).add_(first)

    return x.each(kernel)
