"""RAM: average each element over the sources that changed it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn.functional import hardshrink

from evomerge.kernels.stack import Merged, Stack, Tile
from evomerge.operators import operator


@operator(on="task_vectors", paper_defaults={"epsilon": 1e-5}, paper="arXiv:2601.13572")
def ram(x: Stack, *, epsilon: Annotated[float, Field(ge=0)] = 1e-5) -> Merged:
    """Σ a_i τ_i / max(1, Σ a_i), where a_i = 1 if |τ_i| > ε.

    What one source alone changed is kept in full; what several changed is averaged. Meant for
    reinforcement learning, which leaves most elements exactly as they were.

    Args:
        x: M task vectors.
        epsilon: changes up to this size are none.

    Source: Reinforced Agent Merging, arXiv:2601.13572.
    """

    def kernel(tile: Tile) -> Tensor:
        changed = hardshrink(tile.values, epsilon)
        total = changed.sum(0)
        count = changed.sign_().square_().sum(0)
        return total.div_(count.clamp_(min=1))

    return x.each(kernel)
