"""TIES: trim, elect sign, merge what agrees."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from evomerge.kernels.choices import Consensus, Negative, Scope
from evomerge.kernels.measures import measures
from evomerge.kernels.stack import Merged, Stack, Tile
from evomerge.kernels.sums import summed
from evomerge.operators import Bound, Floats, operator
from evomerge.operators._modifiers import DENSITY
from evomerge.operators._sparsify import sparsified


@operator(
    on="task_vectors",
    per_source={"weight": Bound(1.0), "density": DENSITY},
    paper_defaults={"weight": 1.0, "density": 0.2},
    paper="Yadav et al. 2023, arXiv:2306.01708",
)
def ties(
    x: Stack,
    *,
    weight: Floats,
    density: Floats,
    lam: float = 1.0,
    normalize: bool = True,
    consensus: Consensus = "sum",
    negative: Negative = "subtract",
    scope: Scope = "tensor",
    variant: Literal["weighted", "paper"] = "weighted",
) -> Merged:
    """Sum the task vectors that agree with the elected sign.

    Args:
        x: M task vectors.
        weight: (M,) any sign.
        density: (M,) fraction of each task vector kept by magnitude, in [0, 1].
        lam: scale of the result.
        normalize: divide by the absolute weight of the sources that agree.
        consensus: elect by the ``sum`` of the weighted values or by the ``count`` of signs.
        negative: ``subtract``: sources of negative weight do not vote, and are subtracted after
            the election; ``elect``: they vote, as in mergekit.
        scope: whether the largest are counted in each ``tensor`` or in the whole model
            (``global``, as in the paper's code).
        variant: ``paper`` averages without weights and lets a zero sum follow the majority.

    Source: Yadav et al. 2023, arXiv:2306.01708, Algorithm 1.
    """
    sparse = sparsified(x, density, scope=scope)
    if variant == "paper":
        return _unweighted_mean(sparse, lam, _majority(x, density, scope))
    return summed(
        sparse, weight, lam=lam, normalize=normalize, consensus=consensus, negative=negative
    )


def _majority(x: Stack, density: Floats, scope: Scope) -> float:
    """The sign that most entries in the scope elect; -1 for a draw."""

    def signs(stack: Stack) -> float:
        sparse = sparsified(stack, density, scope=scope)
        total = measures(sparse).total(
            lambda tile: tile.values.sum(0).sign_().sum(dtype=torch.float64)
        )
        return float(total)

    whole = measures(x, scope)
    total = whole.latest(
        "majority", (density, scope), lambda: sum(signs(stack) for _, stack in whole.parts)
    )
    return 1.0 if total > 0 else -1.0


def _unweighted_mean(x: Stack, lam: float, majority: float) -> Merged:
    """The mean of the entries that agree, as in the authors' code.

    Where the sources sum to zero the majority decides; in a draw their comparison picks the
    negative entries.
    """

    def kernel(tile: Tile) -> Tensor:
        elected = tile.values.sum(0).sign_()
        elected += majority * (1 - elected.abs())
        agreeing_M = (tile.values * elected).relu_()
        count = agreeing_M.sign().sum(0).clamp_(min=1)
        return agreeing_M.sum(0).mul_(elected).div_(count).mul_(lam)

    return x.each(kernel)
