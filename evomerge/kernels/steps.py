"""Models made by the crossovers and mutations of a lineage, element by element in float32.

Made from whole models in memory, or replayed on a stretch of the sources, the bits are the same:
every element goes through the same operations in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.compiled import NOTHING, array, compiled, fits
from evomerge.kernels.memory import buffer
from evomerge.kernels.random import normals
from evomerge.recipes import Lineage, LineageStep


def offspring(step: LineageStep, parents: Sequence[Tensor], seed: int, *, start: int = 0) -> Tensor:
    """Elements of a step's child: a·first + b·second + sigma·noise.

    Args:
        step: how the parents are combined.
        parents: one or two tensors, (n,) float32: these elements of each.
        seed: of the noise.
        start: flat index in the model of the first element.

    Returns:
        (n,) float32, newly allocated.
    """
    first, second = parents[0], parents[-1]
    out = torch.empty_like(first)
    noise = None
    if step.sigma:
        memory = buffer("noise", (1, len(first)), torch.device("cpu"))[0]
        noise = normals(f"{seed}\0mutation\0{step.number}", start, start + len(first), memory)
    sigma = np.float32(step.sigma)
    ends = np.array([min(max(end - start, 0), len(first)) for end in step.ends], np.int64)
    weights = np.zeros((len(ends), 2), np.float32)
    weights[:, : len(parents)] = step.weights
    if fits(first, second):
        added = NOTHING if noise is None else array(noise)
        _mix(array(first), array(second), ends, weights, added, sigma, array(out))
        return out
    low = 0
    for high, (a, b) in zip(ends.tolist(), weights.tolist(), strict=True):
        part = slice(low, high)
        # not `addcmul`: a fused product and sum would be rounded once
        torch.add(first[part] * a, second[part] * b, out=out[part])
        low = high
    return out if noise is None else out.add_(noise.to(out.device).mul_(float(sigma)))


def replay(lineage: Lineage, sources: Mapping[str, Tensor], seed: int, *, start: int = 0) -> Tensor:
    """N elements of the last model of a lineage.

    Args:
        lineage: all steps from the sources on.
        sources: name to (n,) float32: these elements of each.
        seed: of the noise.
        start: flat index in the model of the first element.

    Returns:
        (n,) float32.
    """
    last_use = {parent: step.number for step in lineage.steps for parent in step.parents}
    models: dict[str | int, Tensor] = dict(sources.items())
    for step in lineage.steps:
        parents = [models[parent] for parent in step.parents]
        models[step.number] = offspring(step, parents, seed, start=start)
        for parent in set(step.parents):
            if last_use[parent] == step.number:
                del models[parent]
    return models[lineage.steps[-1].number]


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
