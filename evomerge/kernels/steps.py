"""Children of models by the steps of a lineage, element by element in float32.

Whether whole models are kept in memory or the steps are carried out again on a stretch of their
sources, the same operations are done on every element, one after another: the bits are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.compiled import NOTHING, array, compiled, fits
from evomerge.kernels.memory import buffer
from evomerge.kernels.normals import normals
from evomerge.recipes import Lineage, LineageStep


def offspring(step: LineageStep, parents: Sequence[Tensor], seed: int, *, start: int = 0) -> Tensor:
    """A stretch of the child's elements: a·first + b·second + sigma·noise.

    Args:
        step: one of a lineage.
        parents: (M,) of (n,) float32: the same stretch of each.
        seed: of the noise.
        start: which of the model's elements is the first.

    Returns:
        (n,) float32, in memory of its own.
    """
    first, second = parents[0], parents[-1]
    out = torch.empty_like(first)
    noise = noise_of(step, seed, start, start + len(first))
    sigma = np.float32(step.sigma)
    ends = np.array([min(max(end - start, 0), len(first)) for end in step.ends], np.int64)
    weights = np.zeros((len(ends), 2), np.float32)
    weights[:, : len(parents)] = step.weights
    if fits(first, second):
        given = NOTHING if noise is None else array(noise)
        _mix(array(first), array(second), ends, weights, given, sigma, array(out))
        return out
    low = 0
    for high, (a, b) in zip(ends.tolist(), weights.tolist(), strict=True):
        part = slice(low, high)
        # products and sum apart: fused they would be rounded once
        torch.add(first[part] * a, second[part] * b, out=out[part])
        low = high
    return out if noise is None else out.add_(noise.to(out.device).mul_(float(sigma)))


def noise_of(step: LineageStep, seed: int, start: int, stop: int) -> Tensor | None:
    """(stop - start,) float32 of variance 1, good until the next call in this thread."""
    if step.sigma == 0:
        return None
    memory = buffer("noise", (1, stop - start), torch.device("cpu"))[0]
    return normals(f"{seed}\0mutation\0{step.number}", start, stop, memory)


def replay(lineage: Lineage, sources: Mapping[str, Tensor], seed: int, *, start: int = 0) -> Tensor:
    """A stretch of the elements of the model that a lineage leads to.

    Args:
        sources: name to (n,) float32, the same stretch of each.
        seed, start: as in `offspring`.

    Returns:
        (n,) float32.
    """
    last_use = {parent: step.number for step in lineage.steps for parent in step.parents}
    known: dict[str | int, Tensor] = dict(sources.items())
    for step in lineage.steps:
        parents = [known[parent] for parent in step.parents]
        known[step.number] = offspring(step, parents, seed, start=start)
        for parent in set(step.parents):
            if last_use[parent] == step.number:
                del known[parent]
    return known[lineage.steps[-1].number]


@compiled
def _mix(
    first: Any, second: Any, ends: Any, weights: Any, noise: Any, sigma: Any, out: Any
) -> None:
    low = 0
    for number in range(ends.size):
        high, a, b = ends[number], weights[number, 0], weights[number, 1]
        x, y, child = first[low:high], second[low:high], out[low:high]
        for j in range(child.size):
            child[j] = a * x[j] + b * y[j]
        low = high
    for j in range(noise.size):
        out[j] += sigma * noise[j]
