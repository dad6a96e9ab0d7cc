"""Task singular vectors, made orthogonal to each other before they are added."""

from __future__ import annotations

import torch
from torch import Tensor

from evomerge.kernels.stack import Merged, Stack
from evomerge.operators import Bound, Floats, operator
from evomerge.operators._spectral import Factors, factors, has_matrices, polar, scaled_mean, svd


@operator(
    on="task_vectors",
    per_source={"weight": Bound(1.0), "rank": Bound(0, least=0, whole=True)},
    scale="alpha",
    paper_defaults={"alpha": 1.0},
    paper="Gargiulo et al. 2025, arXiv:2412.00081",
)
def tsvm(x: Stack, *, weight: Floats, rank: Floats, alpha: float = 1.0) -> Merged:
    """α · polar([U_1 … U_M]) diag(w s) polar([V_1 … V_M])ᵀ.

    Each task vector τ_i = U_i diag(s_i) V_iᵀ gives its leading components. Where several sources
    have components in the same direction, they share it instead of adding up.

    Tensors that are no matrices, embeddings and heads get α · mean of w_i τ_i; of fused experts
    (E, out, in) each is merged by itself. If there are more components than the smaller
    dimension, those of the largest |w s| are taken. Null directions are left out, so that a
    source equal to the base, or of weight 0, adds nothing.

    The factors do not depend on α or the weights and are kept from candidate to candidate, up
    to 4 GiB in all: R · (out + in) floats a matrix, R the components of all sources; by default
    up to twice the size of the matrix. A candidate then costs one product.

    Args:
        x: M task vectors.
        weight: (M,) any sign.
        rank: (M,) components of each; 0 stands for the smaller dimension divided by M.
        alpha: scale of the result.

    Source: Gargiulo et al. 2025, arXiv:2412.00081; the polar factor leaves out null
    directions (rule R14), in which the authors' code is arbitrary.
    """
    if not has_matrices(x):
        return scaled_mean(x, alpha, weight)
    smaller = min(x.shape[-2:])
    default = max(1, smaller // x.count)
    ranks = [min(smaller, int(r) or default) if w else 0 for w, r in zip(weight, rank, strict=True)]
    tight = sum(ranks) > smaller  # only then do weights decide what is taken

    def make(values_Mmn: Tensor) -> Factors:
        return _orthogonal(values_Mmn, ranks, weight if tight else (1.0,) * x.count)

    settings = (tuple(ranks), weight if tight else None)
    merged = []
    for U, S, V, owner in factors(x, "tsvm", settings, make):
        scales = S * torch.tensor(weight, device=S.device)[owner] * alpha
        merged.append((U * scales) @ V.T)
    return torch.stack(merged).view(x.shape)


def _orthogonal(values_Mmn: Tensor, ranks: list[int], weight: Floats) -> Factors:
    """Both polar factors, the singular values, and the source of each column."""
    of = [i for i, rank in enumerate(ranks) if rank]
    parts = [svd(values_Mmn[i]).top(ranks[i]) for i in of]
    if not parts:
        parts, of = [svd(torch.zeros_like(values_Mmn[0]))], [0]
    U, V = torch.cat([p.U for p in parts], 1), torch.cat([p.V for p in parts], 1)
    S = torch.cat([p.S for p in parts])
    lengths = torch.tensor([p.S.numel() for p in parts])
    owner = torch.repeat_interleave(torch.tensor(of), lengths).to(S.device)
    smaller = min(values_Mmn.shape[1:])
    if S.numel() > smaller:
        sizes = S * torch.tensor(weight, dtype=S.dtype, device=S.device)[owner].abs()
        taken = sizes.argsort(descending=True, stable=True)[:smaller]
        U, S, V, owner = U[:, taken], S[taken], V[:, taken], owner[taken]
    return polar(U).float(), S.float(), polar(V).float(), owner
