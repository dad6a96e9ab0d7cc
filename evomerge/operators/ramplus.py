"""RAM+: average what several sources changed, amplify what one alone changed."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from evomerge.kernels.choices import Scope
from evomerge.kernels.measures import measures
from evomerge.kernels.stack import Merged, Stack, Tile
from evomerge.operators import operator


@operator(
    on="task_vectors",
    paper_defaults={"epsilon": 1e-5, "r": 0.1, "alpha": 0.2},
    paper="arXiv:2601.13572",
)
def ramplus(
    x: Stack,
    *,
    epsilon: Annotated[float, Field(ge=0)] = 1e-5,
    r: float = 0.1,
    alpha: Annotated[float, Field(ge=0)] = 0.2,
    scope: Scope = "tensor",
) -> Merged:
    """Σ_i a_i τ_i / c where c > 1 sources changed an entry, λ_i τ_i where source i alone did.

    A source changed an entry if |τ_i| > ε; a_i says so. λ_i = 1 + r · clip(ρ_i, 0, α), where ρ_i
    is the number of entries that i shares with others over the number that it alone changed. A
    source that alone changed none has nothing to amplify.

    Args:
        x: M task vectors.
        epsilon: a change up to this does not count.
        r: strength of the amplification.
        alpha: upper limit of ρ.
        scope: whether entries are counted in each ``tensor`` or in the whole model (``global``,
            as published).

    Source: Reinforced Agent Merging (RAM+), arXiv:2601.13572, with mergekit's defaults.
    """
    factor = amplification(x, epsilon=epsilon, r=r, alpha=alpha, scope=scope)

    def kernel(tile: Tile) -> Tensor:
        changed_M = torch.nn.functional.hardshrink(tile.values, epsilon)
        count = changed_M.sign().abs_().sum(0)
        alone = (2 - count).clamp_(max=1).relu_()  # 1 where at most one source changed it
        total = torch.zeros_like(count)
        for changed, f in zip(changed_M, factor, strict=True):
            total += changed.mul_(alone * (f - 1) + 1)
        return total.div_(count.clamp_(min=1))

    return x.each(kernel)


def amplification(
    x: Stack, *, epsilon: float, r: float, alpha: float, scope: Scope = "tensor"
) -> list[float]:
    """(M,) the λ_i; arguments as for `ramplus`."""
    measure = measures(x, scope)

    def kernel(tile: Tile) -> Tensor:
        """(2, M): how many entries each source shares, and how many it alone changed."""
        changed_M = torch.nn.functional.hardshrink(tile.values, epsilon).sign_().abs_().flatten(1)
        several = (changed_M.sum(0) - 1).clamp_(max=1).relu_()
        shared = (changed_M * several).sum(1, dtype=torch.float64)
        return torch.stack([shared, changed_M.sum(1, dtype=torch.float64) - shared])

    counts = measure.latest("ramplus", epsilon, lambda: measure.total(kernel))
    ratios = [float(s) / float(a) if a else 0.0 for s, a in zip(*counts, strict=True)]
    return [1 + r * min(max(ratio, 0.0), alpha) for ratio in ratios]
