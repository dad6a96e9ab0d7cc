"""Singular value decompositions, for the operators that need whole matrices.

Legend: M sources, a matrix is (m, n) as (out, in), R components.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evomerge.errors import OperatorError
from evomerge.kernels.stack import Stack, Tiles
from evomerge.kernels.sums import weighted

_DIRECT = 512  # smaller dimension up to which a matrix is decomposed directly
_LEAST = 1e-7  # rule R14: of the largest singular value
_LEAST_SQUARED = 1e-6  # the same for singular values of a Gram matrix, which loses digits
_KEPT_BYTES = 4 << 30  # what one process caches for later candidates
_KEPT = "spectral bytes"
_lock = threading.Lock()
_NoConvergenceError = torch.linalg.LinAlgError  # type: ignore[attr-defined]

Factors = tuple[Tensor, ...]


class Svd(NamedTuple):
    """U diag(S) Vᵀ without the null space.

    Attributes:
        U: (m, R) float64.
        S: (R,) float64, descending.
        V: (n, R) float64.
    """

    U: Tensor
    S: Tensor
    V: Tensor

    def top(self, rank: int) -> Svd:
        """The leading components."""
        return Svd(self.U[:, :rank], self.S[:rank], self.V[:, :rank])


def svd(matrix: Tensor, *, least: float = _LEAST, absolute: float = 0.0) -> Svd:
    """The singular values above a threshold, with their vectors.

    A matrix whose smaller dimension exceeds 512 is decomposed through the eigenvectors of its
    smaller Gram matrix in float64. That is two to three times as fast as the float32
    decomposition, and more exact for all singular values above 1e-6 of the largest; the others
    are dropped.

    Args:
        matrix: (m, n) of any float dtype.
        least: threshold as a fraction of the largest singular value.
        absolute: another threshold, not relative.

    Raises:
        OperatorError: neither algorithm converges.

    Source: rules R1 and R14.
    """
    A = matrix.double()
    direct, other = (_direct, _by_gram) if min(A.shape) <= _DIRECT else (_by_gram, _direct)
    try:
        whole = direct(A)
    except _NoConvergenceError:
        try:
            whole = other(A)
        except _NoConvergenceError as error:
            raise OperatorError(f"a matrix of {tuple(A.shape)} has no SVD: {error}") from None
    largest = float(whole.S.max()) if whole.S.numel() else 0.0
    threshold = max(least * largest, absolute)
    return whole.top(int(whole.S.gt(threshold).sum()))


def _direct(A: Tensor) -> Svd:
    U, S, Vh = torch.linalg.svd(A, full_matrices=False)
    return Svd(U, S, Vh.T)


def _by_gram(A: Tensor) -> Svd:
    wide = A.shape[0] <= A.shape[1]
    A = A if wide else A.T
    squares, U = torch.linalg.eigh(A @ A.T)
    U, squares = U.flip(1), squares.flip(0)
    kept = squares > squares[:1].clamp(min=0) * _LEAST_SQUARED**2
    U = U[:, kept]
    SV = A.T @ U
    S = SV.norm(dim=0)  # more exact than the roots of the eigenvalues
    V = SV / S
    return Svd(U, S, V) if wide else Svd(V, S, U)


def polar(matrix: Tensor) -> Tensor:
    """(m, n) float64: U Vᵀ of a matrix's singular vectors, without the null space.

    Source: rule R14.
    """
    U, _, V = svd(matrix)
    return U @ V.T


def has_matrices(x: Stack) -> bool:
    """Whether a tensor is a matrix, or the experts of a block as one (E, out, in) tensor.

    Source: rule R11.
    """
    if len(x.shape) == 2:
        return x.role not in ("embedding", "head")
    return len(x.shape) == 3 and x.role == "mlp"


def scaled_mean(x: Stack, factor: float, weight: Sequence[float] | None = None) -> Tiles:
    """Factor · Σ w_i x_i / M, which spectral operators give for all but matrices (rule R11)."""
    weight = [1.0] * x.count if weight is None else weight
    return weighted(x, weight, factor=factor / x.count)


def matrices(x: Stack) -> Iterator[Tensor]:
    """(M, m, n) float32 of each matrix: one, or one for each expert."""
    if len(x.shape) == 2:
        yield x.whole()
        return
    size = x.shape[1] * x.shape[2]
    for start in range(0, x.size, size):
        yield x.tile(start, start + size).values.reshape(x.count, *x.shape[1:]).clone()


def sums(x: Stack) -> Iterator[Tensor]:
    """(m, n) float32 of each matrix: the sum over the sources."""
    total = torch.empty(x.size, device=x.device)
    for tile in x.tiles():
        part = tile.values.sum(0).flatten()
        total[tile.start : tile.start + part.numel()] = part
    yield from total.view(-1, *x.shape[-2:])


def factors(
    x: Stack,
    key: str,
    settings: Any,
    make: Callable[[Tensor], Factors],
    read: Callable[[Stack], Iterator[Tensor]] = matrices,
) -> list[Factors]:
    """The factors of each matrix, cached for candidates with the same inputs and settings.

    The cache holds the latest settings of each operator and tensor, 4 GiB in all; beyond that, and
    for stacks with modifiers, factors are computed each time.

    Args:
        x: matrices.
        key: the operator's name.
        settings: all that the factors depend on besides the inputs.
        make: computes the factors of one matrix from what ``read`` yields.
        read: yields the matrices of the sources, or their sums.
    """
    place = (key, x.deltas, x.identity)
    made_for, kept = x.cache.get(place, (None, None))
    if kept is not None and made_for == settings:
        return [tuple(t.to(x.device) for t in each) for each in kept]
    made = [make(values) for values in read(x)]
    with _lock:
        total = x.model_cache.get(_KEPT, 0) - _nbytes(kept or [])
        if total + _nbytes(made) <= _KEPT_BYTES:
            total += _nbytes(made)
            x.cache[place] = settings, [tuple(t.cpu() for t in each) for each in made]
        else:
            x.cache.pop(place, None)
        x.model_cache[_KEPT] = total
    return made


def _nbytes(made: Sequence[Factors]) -> int:
    return sum(tensor.nbytes for each in made for tensor in each)
