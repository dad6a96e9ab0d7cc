"""Ways to keep a part of a task vector: by magnitude, at random, by rank in its row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from evomerge.errors import OperatorError
from evomerge.kernels.choices import Method, Norm, Rescale, Scope
from evomerge.kernels.compiled import array, compiled, fits
from evomerge.kernels.consensus import divided, kept_count
from evomerge.kernels.cuts import keep
from evomerge.kernels.measures import magnitude, measures
from evomerge.kernels.row_ranks import ranks
from evomerge.kernels.stack import Kernel, Stack, Tile

_LEAST_NORM = 1e-30  # below it nothing is rescaled; mergekit's 1e-7 misses small tensors


def sparsified(
    x: Stack,
    density: Sequence[float],
    method: Method,
    rescale: Literal["inverse", "none"] | Norm,
    gamma: float,
    epsilon: float,
) -> Stack:
    """The stack with a fraction of each source kept.

    Args:
        density: (M,) fraction kept, in (0, 1].
        method: as in `_modifiers.modified`.
        rescale: by the probability of being kept, to a norm, or not at all.
        gamma: fraction dropped as outliers, for ``breadcrumbs``.
        epsilon: half the spread of probabilities, for ``della``.
    """
    by_chance: Rescale = "inverse" if rescale == "inverse" else "none"
    if method == "random":
        sparse = dropped(x, density, by_chance)
    elif method == "della":
        sparse = pruned_by_rank(x, density, [epsilon] * x.count, by_chance)
    else:
        outliers = gamma if method == "breadcrumbs" else 0.0
        sparse = banded(x, density, [outliers] * x.count)
        if rescale == "inverse":
            sparse = sparse.changed(lambda tile: _divided(tile.values, density))
    if rescale == "none" or rescale == "inverse" or sparse is x:
        return sparse
    return rescaled(x, sparse, rescale)


def _divided(values_M: Tensor, density: Sequence[float]) -> Tensor:
    for values, d in zip(values_M, density, strict=True):
        divided(values, d)
    return values_M


def trimmed(x: Stack, density: Sequence[float], scope: Scope = "tensor") -> Stack:
    """The stack with all but each source's largest magnitudes set to zero (rules R2, R3, R13).

    Args:
        density: (M,) fraction kept, in [0, 1].
        scope: whether the largest are counted in each tensor or in the whole model.
    """
    return banded(x, density, [0.0] * x.count, scope)


def banded(
    x: Stack, density: Sequence[float], gamma: Sequence[float], scope: Scope = "tensor"
) -> Stack:
    """The stack without the ⌊γn⌋ largest magnitudes; of the others, the next ⌊dn⌋ are kept.

    Args:
        density: (M,) fraction kept, in [0, 1].
        gamma: (M,) fraction dropped as outliers, in [0, 1).
    """
    measure = measures(x, scope)
    size = measure.size
    kept = [kept_count(d, size) for d in density]
    top = [min(int(g * size + 1e-6), size - k) for g, k in zip(gamma, kept, strict=True)]
    if all(k == size for k in kept):
        return x
    sums = [t + k for t, k in zip(top, kept, strict=True)]
    outer = measure.cuts(magnitude, sums, "magnitude")
    inner = measure.cuts(magnitude, top, "magnitude") if any(top) else None

    def kernel(tile: Tile) -> Tensor:
        for i, values in enumerate(tile.values):
            if inner is None or not top[i]:
                keep(values, outer[i], tile.start, out=values)
            else:
                outliers = keep(values, inner[i], tile.start)
                keep(values, outer[i], tile.start, out=values).sub_(outliers)
        return tile.values

    return x.changed(kernel)


def dropped(x: Stack, density: Sequence[float], rescale: Rescale) -> Stack:
    """The stack with each element kept with probability ``density`` (rule R12).

    Args:
        density: (M,) in (0, 1].
        rescale: ``inverse`` divides by the density, ``l1`` restores the sum of magnitudes.
    """

    def kernel(tile: Tile) -> Tensor:
        for values, drawn, d in zip(tile.values, tile.uniforms(), density, strict=True):
            if d < 1:
                _drop(values, drawn, d, divide=rescale == "inverse")
        return tile.values

    if all(d >= 1 for d in density):
        return x
    return rescaled(x, x.changed(kernel), "l1") if rescale == "l1" else x.changed(kernel)


def pruned_by_rank(
    x: Stack, density: Sequence[float], epsilon: Sequence[float], rescale: Rescale
) -> Stack:
    """The stack with each element kept at a probability that grows with its rank in its row.

    Args:
        density: (M,) mean probability, in (0, 1].
        epsilon: (M,) half the difference between the largest and the smallest probability.
        rescale: ``inverse`` divides each element by its own probability.

    Raises:
        OperatorError: a probability would not lie in (0, 1).

    Source: MAGPRUNE, Deep et al. 2024, arXiv:2406.11617.
    """
    for d, e in zip(density, epsilon, strict=True):
        if d < 1 and not 0 < d - e <= d + e < 1:
            raise OperatorError(
                f"density {d:g} with epsilon {e:g}: the probabilities {d - e:g} to {d + e:g} must "
                f"lie between 0 and 1. Set epsilon below {min(d, 1 - d):g}, or density to 1."
            )

    def kernel(tile: Tile) -> Tensor:
        for values, drawn, d, e in zip(tile.values, tile.uniforms(), density, epsilon, strict=True):
            if d < 1:
                chance = keep_probabilities(values, d, e)
                _drop(values, drawn, chance, divide=rescale == "inverse")
        return tile.values

    if all(d >= 1 for d in density):
        return x
    pruned = x.changed(kernel, by_row=True)
    return rescaled(x, pruned, "l1") if rescale == "l1" else pruned


def keep_probabilities(rows: Tensor, density: float, epsilon: float) -> Tensor:
    """(r, c) float32: d - ε for a row's smallest magnitude to d + ε for its largest.

    Args:
        rows: (r, c) float32; of equal magnitudes the one further left ranks higher.
    """
    columns = rows.shape[1]
    if columns == 1:
        return torch.full_like(rows, density)
    rank = ranks(rows)
    return rank.mul_(2 * epsilon / (columns - 1)).add_(density - epsilon)


def _drop(values: Tensor, drawn: Tensor, chance: Tensor | float, *, divide: bool) -> None:
    """Set to zero the values whose number is not below the chance to be kept; in place.

    Args:
        divide: the others by their chance.
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


def rescaled(before: Stack, after: Stack, norm: Norm) -> Stack:
    """``after``, each source scaled to the norm over the tensor that it has in ``before``."""
    old, new = (_norms(stack, norm) for stack in (before, after))
    factor = [o / n if min(o, n) > _LEAST_NORM else 1.0 for o, n in zip(old, new, strict=True)]

    def kernel(tile: Tile) -> Tensor:
        for values, f in zip(tile.values, factor, strict=True):
            values.mul_(f)
        return tile.values

    return after.changed(kernel)


def _norms(x: Stack, norm: Norm) -> list[float]:
    """(M,) the norms of the sources' values."""
    if norm == "linf":
        largest = torch.stack([tile.values.abs().flatten(1).amax(1) for tile in x.tiles()])
        return [float(value) for value in largest.amax(0)]
    power: Kernel = {"l1": _absolute, "l2": _square}[norm]
    total = measures(x).once(norm, lambda: measures(x).total(power))
    return [float(t) if norm == "l1" else float(t) ** 0.5 for t in total]


def _absolute(tile: Tile) -> Tensor:
    return tile.values.flatten(1).abs().sum(1, dtype=torch.float64)


def _square(tile: Tile) -> Tensor:
    return tile.values.flatten(1).double().square().sum(1)
