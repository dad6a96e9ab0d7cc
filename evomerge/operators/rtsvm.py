"""TSV-M with weights from outliers and ranks from sparsity."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor

from evomerge.kernels.measures import measures
from evomerge.kernels.stack import Merged, Stack, Tile
from evomerge.operators import Floats, operator
from evomerge.operators._spectral import has_matrices, scaled_mean
from evomerge.operators.tsvm import tsvm

_SMALL = 0.1  # of the root mean square: below it an entry counts as nearly zero


@operator(
    on="task_vectors",
    scale="alpha",
    paper_defaults={"alpha": 1.0, "z": 3.0},
    paper="Yang et al. 2025, arXiv:2502.06876",
    experimental=True,
)
def rtsvm(
    x: Stack,
    *,
    alpha: float = 1.0,
    z: Annotated[float, Field(ge=0)] = 3.0,
    kappa: Annotated[float, Field(ge=0)] = 0.0,
) -> Merged:
    """``tsvm``, each source weighted by its outliers and ranked by its sparsity.

    w_i = M o_i / Σ o with o_i = Σ |τ_i| over entries farther than z standard deviations from the
    mean of their row; r_i = min(out, in) / M · (1 + κ (s̄ - s_i)) with s_i the share of entries
    below a tenth of the root mean square.

    The paper's equations could not be read; these follow its abstract. Do not report the result
    as the paper's method.

    Args:
        x: M task vectors.
        alpha: scale of the result.
        z: standard deviations beyond which an entry is an outlier.
        kappa: how strongly sparsity lowers a rank; 0 gives all the same.

    Source: the abstract of Yang et al. 2025, arXiv:2502.06876; the equations are ours.
    """
    if not has_matrices(x):
        return scaled_mean(x, alpha)
    smaller = min(x.shape[-2:])
    ranks = tuple(
        float(min(smaller, max(1, round(smaller / x.count * (1 + kappa * excess)))))
        for excess in (_density_excess(x) if kappa else [0.0] * x.count)
    )
    return tsvm.function(x, weight=outlier_weights(x, z), rank=ranks, alpha=alpha)


def outlier_weights(x: Stack, z: float) -> Floats:
    """(M,) of mean 1, in proportion to the magnitude of each source's outliers."""

    def kernel(tile: Tile) -> Tensor:
        rows = tile.values.reshape(x.count, -1, x.shape[-1]).double()
        far = rows - rows.mean(2, keepdim=True)
        limit = z * far.square().mean(2, keepdim=True).sqrt()
        return (rows.abs() * (far.abs() > limit)).sum((1, 2))

    sums = measures(x).latest("outliers", z, lambda: measures(x).total(kernel, by_row=True))
    total = float(sums.sum())
    return tuple(x.count * float(s) / total if total else 1.0 for s in sums)


def _density_excess(x: Stack) -> list[float]:
    """(M,) by how much a source's share of nearly zero entries falls below the mean share."""
    rms = (measures(x).gram().diagonal() / x.size).sqrt()

    def kernel(tile: Tile) -> Tensor:
        limit = _SMALL * rms.to(tile.values.device).float().view(-1, 1)
        return (tile.values.flatten(1).abs() < limit).sum(1)

    shares = measures(x).once("nearly zero", lambda: measures(x).total(kernel)) / x.size
    return [float(s) for s in shares.mean() - shares]
