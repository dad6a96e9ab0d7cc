"""PCB-Merging beyond its golden vectors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from evomerge.operators import apply


def minmax(rows: Any) -> Any:
    low, high = rows.min(1, keepdims=True), rows.max(1, keepdims=True)
    return (rows - low) / (high - low)


def clipped(rows: Any, low: int, high: int) -> Any:
    ordered = np.sort(rows, 1)
    return np.clip(rows, ordered[:, low : low + 1], ordered[:, high : high + 1])


def reference(taus: Any, ratio: float, clip: float, lam: Any) -> Any:
    rows = np.stack([tau.ravel() for tau in taus])
    count, size = rows.shape
    sizes = clipped(np.abs(rows), math.floor(clip * size), math.floor((1 - clip) * size - 1))
    score = np.exp(count * minmax(sizes) ** 2) * np.tanh(rows * rows.sum(0))
    s = minmax(clipped(score, math.floor((1 - ratio) * size), size - 1))
    parts = np.asarray(lam)[:, None] * s * np.sign(rows) * sizes
    return (parts.sum(0) / np.maximum(s.sum(0), 1e-12)).reshape(taus[0].shape)


LAM = [1.2, 1.0, 0.8]


@pytest.mark.parametrize("shape", [(64, 48), (300, 700)])
@pytest.mark.parametrize("ratio", [0.05, 0.5, 0.9])
def test_it_follows_the_published_code(
    shape: tuple[int, int], ratio: float, draw: Any, close: Any
) -> None:
    base, *taus = draw(*shape, count=4, scale=0.1)
    sources = [base + tau for tau in taus]
    # the differences that float32 holds
    taus = [np.float32(s).astype(float) - np.float32(base) for s in sources]
    merged = apply("pcb", base=base, sources=sources, ratio=ratio, clip=0.01, lam=LAM)
    delta = merged.double().numpy() - base
    # next to a quotient of two vanishing scores float32 is not exact
    off = np.abs(delta - reference(taus, ratio, 0.01, LAM)) > 1e-5
    assert off.mean() < 1e-3


def test_global_scope_ranks_the_model_as_one_row(draw: Any, close: Any) -> None:
    shapes = {"a": (30, 20), "b": (50,), "c": (70000,)}
    drawn = {name: draw(*shape, count=4, seed=len(name)) for name, shape in shapes.items()}
    flat = [np.concatenate([drawn[name][i].ravel() for name in shapes]) for i in range(4)]
    merged = apply(
        "pcb",
        base={name: drawn[name][0] for name in shapes},
        sources=[{name: drawn[name][i] for name in shapes} for i in (1, 2, 3)],
        ratio=0.3,
        lam=LAM,
        scope="global",
    )
    whole = apply("pcb", base=flat[0], sources=flat[1:], ratio=0.3, lam=LAM)
    assert torch.equal(torch.cat([merged[name].flatten() for name in shapes]), whole)


def test_where_a_source_opposes_all_others_its_scores_still_span_0_to_1(
    draw: Any, close: Any
) -> None:
    (a,) = draw(40, 30, count=1)
    taus = [a, -0.25 * a]  # every score of the second is negative
    merged = apply("pcb", base=0 * a, sources=taus, ratio=0.4, clip=0.0)
    close(merged, reference(taus, 0.4, 0.0, [1, 1]), 1e-4)
