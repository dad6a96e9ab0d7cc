"""OPCM: merge models one after another, each without the directions of the earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from evomerge.kernels.measures import measures
from evomerge.kernels.stack import Merged, Stack
from evomerge.operators import operator
from evomerge.operators._spectral import Factors, factors, has_matrices, svd


@operator(
    on="task_vectors",
    paper_defaults={"alpha": 0.5},
    paper="Tang et al. 2025, arXiv:2501.09522",
    ordered=True,
)
def opcm(x: Stack, *, alpha: Annotated[float, Field(ge=0, lt=1)] = 0.5) -> Merged:
    """Δ_M / λ_M, where Δ_t = Δ_{t-1} + P_t(τ_t) and λ_t = ‖Δ_t‖ / mean of ‖τ_1‖, ..., ‖τ_t‖.

    With Δ_{t-1} = U Σ Vᵀ, P_t removes from UᵀτV the diagonal and the leading k x k block, k the
    zero-based place at which the cumulative share of the singular values exceeds α. Tensors that
    are no matrices, embeddings and heads are not projected; of fused experts (E, out, in) each
    is projected by itself. Norms are those of the whole model.

    The published recursion divides by λ_t at each step; P_t does not depend on the scale, so
    that one division at the end gives the same. Two passes over the model are needed: one for the
    norms, kept for the latest α, and one for the result. The projected sums are kept too, up to
    4 GiB in all: one float per weight of a matrix.

    Args:
        x: M task vectors, in the order in which they are merged.
        alpha: share of the singular values that is protected, in [0, 1).

    Source: OPCM, Tang et al. 2025, arXiv:2501.09522, as in FusionBench. Null directions of Δ
    are not projected out (rule R14), so that a source equal to the base changes no direction.
    """
    scale = lambdas(x, alpha)[-1]
    factor = 1 / scale if scale else 0.0  # nothing has been added up, or it has cancelled out
    if not has_matrices(x):
        return x.each(lambda tile: tile.values.sum(0).mul_(factor))
    parts = [total for total, _ in _projected(x, alpha)]
    return torch.stack(parts).view(x.shape) * factor


def lambdas(x: Stack, alpha: float) -> list[float]:
    """(M,) the λ_t that keep the norm of the merged task vector at the mean of the sources'."""
    whole = measures(x, "global", every=True)

    def measure() -> list[float]:
        stacks = [stack for _, stack in whole.parts]
        labels = max((stack.labels for stack in stacks), key=len)
        total = sum(_norms(stack, alpha, labels) for stack in stacks)
        assert isinstance(total, Tensor)
        norms, merged = total.sqrt()
        means = norms.cumsum(0) / torch.arange(1, len(labels) + 1)
        return [float(m) / float(n) if n else 0.0 for m, n in zip(merged, means, strict=True)]

    return whole.latest("opcm", alpha, measure)


def _norms(x: Stack, alpha: float, labels: Sequence[str]) -> Tensor:
    """(2, T) squared norms of one tensor: of each source, and of Δ_t after it.

    A source that lacks the tensor adds nothing (rule R8).
    """
    if has_matrices(x):
        merged = torch.stack([squares for _, squares in _projected(x, alpha)]).sum(0).cpu()
    else:
        merged = measures(x).total(
            lambda tile: tile.values.flatten(1).double().cumsum(0).square().sum(1)
        )
    sources = measures(x).gram().diagonal()
    places = {label: i for i, label in enumerate(x.labels)}
    norms = torch.zeros((2, len(labels)), dtype=torch.float64)
    last = 0.0
    for t, label in enumerate(labels):
        if label in places:
            norms[0, t], last = sources[places[label]], float(merged[places[label]])
        norms[1, t] = last
    return norms


def _projected(x: Stack, alpha: float) -> list[Factors]:
    """For each matrix Δ_M, and (M,) the squared norms of Δ_1 to Δ_M."""

    def make(values_Mmn: Tensor) -> Factors:
        total = values_Mmn[0].double()
        squares = [total.square().sum()]
        for tau in values_Mmn[1:]:
            total = total + project(tau, total, alpha)
            squares.append(total.square().sum())
        return total.float(), torch.stack(squares)

    return factors(x, "opcm", alpha, make)


def project(tau: Tensor, delta: Tensor, alpha: float) -> Tensor:
    """(m, n) float64: the part of a task vector that the merged one, ``delta``, leaves free."""
    tau = tau.double()
    U, S, V = svd(delta)
    if not S.numel():
        return tau
    beyond = S.cumsum(0) / S.sum() > alpha
    block = int(beyond.int().argmax())  # FusionBench's documentation counts one more
    UtT = U.T @ tau
    diagonal = (UtT * V.T).sum(1)
    diagonal[:block] = 0
    inner = UtT[:block] @ V[:, :block]
    taken = (U * diagonal) @ V.T + U[:, :block] @ inner @ V[:, :block].T
    return tau - taken
