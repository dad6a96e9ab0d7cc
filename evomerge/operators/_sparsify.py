"""Task vectors of which a fraction is kept: by magnitude, by chance, by rank, without outliers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from evomerge.errors import OperatorError
from evomerge.kernels.choices import Method, Norm, Scope
from evomerge.kernels.compiled import array, compiled, fits
from evomerge.kernels.consensus import divided, kept_count
from evomerge.kernels.cuts import keep
from evomerge.kernels.measures import magnitude, measures
from evomerge.kernels.row_ranks import ranks
from evomerge.kernels.stack import Stack, Tile

_LEAST_NORM = 1e-30  # below it nothing is rescaled; mergekit's 1e-7 misses small tensors


def sparsified(
    x: Stack,
    density: Sequence[float],
    *,
    method: Method = "magnitude",
    rescale: Literal["inverse", "none"] | Norm = "none",
    gamma: Sequence[float] = (),
    epsilon: Sequence[float] = (),
    per_row: bool = False,
    scope: Scope = "tensor",
) -> Stack:
    """The stack with a fraction of each source kept, the rest set to zero; nothing at density 0.

    Args as for the operator `sparsify`, and:
        per_row: whether elements are ranked in each row; for ``breadcrumbs``.
        scope: whether elements are ranked in each tensor or in the model; for ``magnitude``.

    Raises:
        OperatorError: density and epsilon give probabilities outside (0, 1), for ``della``.
    """
    if all(d >= 1 for d in density):
        return x
    inverse = rescale == "inverse"
    if method in ("random", "della"):
        sparse = _by_chance(x, density, epsilon if method == "della" else None, inverse)
    else:
        outliers = gamma if method == "breadcrumbs" else [0.0] * x.count
        sparse = _largest(x, density, outliers, per_row, scope)
        if inverse:
            sparse = sparse.changed(lambda tile: _divided(tile.values, density))
    if rescale == "none" or rescale == "inverse" or sparse is x:
        return sparse
    return _rescaled(x, sparse, rescale)


def _largest(
    x: Stack, density: Sequence[float], gamma: Sequence[float], per_row: bool, scope: Scope
) -> Stack:
    """The ⌊dn⌋ largest magnitudes, after the ⌊γn⌋ largest (rules R2, R3, R13)."""
    measure = measures(x, scope)
    size = x.row_length if per_row else measure.size
    kept = [kept_count(d, size) for d in density]
    top = [min(int(g * size + 1e-6), size - k) for g, k in zip(gamma, kept, strict=True)]
    ends = [t + k for t, k in zip(top, kept, strict=True)]

    def by_row(tile: Tile) -> Tensor:
        for values, k, t in zip(tile.values, kept, top, strict=True):
            if k < size:
                values.mul_(_band(ranks(values), size - t - k, k))
        return tile.values

    def by_tensor(tile: Tile) -> Tensor:
        for i, values in enumerate(tile.values):
            if inner is None or not top[i]:
                keep(values, outer[i], tile.start, out=values)
            else:
                outliers = keep(values, inner[i], tile.start)
                keep(values, outer[i], tile.start, out=values).sub_(outliers)
        return tile.values

    if all(k == size for k in kept):
        return x
    if per_row:
        return x.changed(by_row, by_row=True)
    outer = measure.cuts(magnitude, ends, "magnitude")
    inner = measure.cuts(magnitude, top, "magnitude") if any(top) else None
    return x.changed(by_tensor)


def _band(rank: Tensor, first: int, count: int) -> Tensor:
    """1 for the ranks first ... first + count - 1, else 0; overwrites ``rank``."""
    middle, half = first + (count - 1) / 2, count / 2
    beyond = rank.sub_(middle).abs_().sub_(half)
    return beyond.relu_().sign_().neg_().add_(1)


def _divided(values_M: Tensor, density: Sequence[float]) -> Tensor:
    for values, d in zip(values_M, density, strict=True):
        if d > 0:
            divided(values, d)
    return values_M


def _by_chance(
    x: Stack, density: Sequence[float], epsilon: Sequence[float] | None, divide: bool
) -> Stack:
    """Each element with probability ``density`` (DARE, rule R12).

    With an epsilon the probability grows with the element's rank in its row.

    Source: MAGPRUNE, Deep et al. 2024, arXiv:2406.11617.
    """
    spread = [0.0] * x.count if epsilon is None else epsilon
    for d, e in zip(density, spread, strict=True):
        if epsilon is not None and 0 < d < 1 and not 0 < d - e <= d + e < 1:
            raise OperatorError(
                f"density {d:g} with epsilon {e:g}: the probabilities {d - e:g} to {d + e:g} must "
                f"lie between 0 and 1. Set epsilon below {min(d, 1 - d):g}, or density to 1."
            )

    def kernel(tile: Tile) -> Tensor:
        drawn_M = tile.uniforms()
        for values, drawn, d, e in zip(tile.values, drawn_M, density, spread, strict=True):
            if d <= 0:
                values.zero_()
            elif d < 1:
                chance = d if epsilon is None else keep_probabilities(values, d, e)
                _drop(values, drawn, chance, divide=divide)
        return tile.values

    return x.changed(kernel, by_row=epsilon is not None)


def keep_probabilities(rows: Tensor, density: float, epsilon: float) -> Tensor:
    """(r, c) float32: d - ε for a row's smallest magnitude to d + ε for its largest."""
    columns = rows.shape[1]
    if columns == 1:
        return torch.full_like(rows, density)
    rank = ranks(rows)
    return rank.mul_(2 * epsilon / (columns - 1)).add_(density - epsilon)


def _drop(values: Tensor, drawn: Tensor, chance: Tensor | float, *, divide: bool) -> None:
    """Set values to zero in place, unless the number drawn is below the chance to be kept.

    The values that are kept are divided by their chance if asked; ``drawn`` may be overwritten.
    """
    if fits(values, drawn) and (isinstance(chance, float) or fits(chance)):
        each = np.float32(chance) if isinstance(chance, float) else array(chance.view(-1))
        loop = _drop_by_one if isinstance(chance, float) else _drop_by_each
        loop(array(values.view(-1)), array(drawn.view(-1)), each, divide)
        return
    values *= (chance - drawn).relu_().sign_()
    if divide:
        divided(values, chance) if isinstance(chance, float) else values.div_(chance)


@compiled
def _drop_by_one(values: Any, drawn: Any, chance: Any, divide: bool) -> None:
    divisor = chance if divide else np.float32(1)
    for j in range(values.size):
        values[j] = values[j] * np.float32(drawn[j] < chance) / divisor


@compiled
def _drop_by_each(values: Any, drawn: Any, chance: Any, divide: bool) -> None:
    for j in range(values.size):
        values[j] *= np.float32(drawn[j] < chance[j])
    if divide:
        for j in range(values.size):
            values[j] /= chance[j]


def _rescaled(before: Stack, after: Stack, norm: Norm) -> Stack:
    """``after``, each source scaled to have the norm that it has in ``before``."""
    old, new = (_norms(stack, norm) for stack in (before, after))
    factor = [o / n if min(o, n) > _LEAST_NORM else 1.0 for o, n in zip(old, new, strict=True)]

    def kernel(tile: Tile) -> Tensor:
        for values, f in zip(tile.values, factor, strict=True):
            values.mul_(f)
        return tile.values

    return after.changed(kernel)


def _norms(x: Stack, norm: Norm) -> list[float]:
    """(M,) the norms of the sources."""
    if norm == "linf":
        largest = torch.stack([tile.values.abs().flatten(1).amax(1) for tile in x.tiles()])
        return [float(value) for value in largest.amax(0)]

    def power(tile: Tile) -> Tensor:
        values = tile.values.flatten(1)
        if norm == "l1":
            return values.abs().sum(1, dtype=torch.float64)
        return values.double().square().sum(1)

    total = measures(x).once(norm, lambda: measures(x).total(power))
    return [float(t) if norm == "l1" else float(t) ** 0.5 for t in total]
