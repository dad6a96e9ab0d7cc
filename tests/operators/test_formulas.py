"""Operators against their formulas, written out once more in NumPy and float64."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from evomerge import operators
from evomerge.kernels.stack import TILE

Array = Any  # float64 of NumPy; sources are (M, *shape)
Reference = Callable[[Array, Array], Array]

# One below a tile, two of several tiles that end within rows, a stack of matrices.
SHAPES = [(64, 48), (2 * TILE // 700 + 3, 700), (2 * TILE + 5,), (6, 5, 4)]


def unit(vectors: Array) -> Array:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def flat(values: Array) -> Array:
    return values.reshape(len(values), -1)


def rows(values: Array) -> Array:
    """(M, r, c): a vector is one row (rule R11)."""
    if values.ndim == 2:
        return values[:, None, :]
    return values.reshape(*values.shape[:2], -1)


def arc(a: Array, b: Array, t: float) -> Array:
    """Of vectors along the last axis, by their angle's arc cosine."""
    theta = np.arccos((unit(a) * unit(b)).sum(-1, keepdims=True))
    return (np.sin((1 - t) * theta) * a + np.sin(t * theta) * b) / np.sin(theta)


def nuslerp(base: Array, sources: Array) -> Array:
    a, b = flat(sources - base)
    return base + arc(a, b, 0.75).reshape(base.shape)


def nuslerp_rows(base: Array, sources: Array) -> Array:
    a, b = rows(sources - base)
    return base + arc(a, b, 0.75).reshape(base.shape)


def nuslerp_columns(base: Array, sources: Array) -> Array:
    a, b = rows(sources - base)
    turned = arc(a, b, 0.75) if base.ndim == 1 else arc(a.T, b.T, 0.75).T
    return base + turned.reshape(base.shape)


def multislerp(base: Array, sources: Array) -> Array:
    deltas = flat(sources - base)
    weight = np.array([0.2, 0.3, 0.5])
    mean = unit(weight @ unit(deltas))
    return base + (weight @ np.linalg.norm(deltas, axis=1) * mean).reshape(base.shape)


def karcher(base: Array, sources: Array) -> Array:
    vectors = unit(flat(sources))
    u = unit(vectors.mean(0))
    for _ in range(10):
        cosine = vectors @ u
        theta = np.arccos(cosine)
        step = np.mean((theta / np.sin(theta))[:, None] * (vectors - cosine[:, None] * u), axis=0)
        length = np.linalg.norm(step)
        if length < 1e-5:
            break
        u = unit(np.cos(length) * u + np.sin(length) * step / length)
    return (np.linalg.norm(flat(sources), axis=1).mean() * u).reshape(base.shape)


def model_stock(base: Array, sources: Array) -> Array:
    return base + stock(flat(sources - base)).reshape(base.shape)


def model_stock_rows(base: Array, sources: Array) -> Array:
    return base + stock(rows(sources - base)).reshape(base.shape)


def stock(deltas: Array) -> Array:
    count = len(deltas)
    pairs = [(unit(deltas[i]) * unit(deltas[j])).sum(-1) for i, j in combinations(range(count), 2)]
    cosine = np.clip(np.mean(pairs, axis=0), 0, 1)[..., None]
    return count * cosine / (1 + (count - 1) * cosine) * deltas.mean(0)


def varm(base: Array, sources: Array) -> Array:
    weight = (flat(sources - base) ** 2).mean(1)
    return base + np.tensordot(weight / weight.sum(), sources - base, 1)


def sce(base: Array, sources: Array, fraction: float = 0.3) -> Array:
    deltas = flat(sources - base)
    variance = deltas.var(0)
    selected = np.argsort(-variance, kind="stable")[: int(fraction * np.count_nonzero(variance))]
    mask = np.zeros(deltas.shape[1])
    mask[selected] = 1
    deltas = deltas * mask
    weight = (deltas**2).mean(1, keepdims=True)
    agrees = np.sign(deltas) == np.where(deltas.sum(0) >= 0, 1, -1)
    divisor = (weight * agrees).sum(0)
    merged = (weight * agrees * deltas).sum(0) / np.where(divisor == 0, 1, divisor)
    return base + merged.reshape(base.shape)


def sce_of_all(base: Array, sources: Array) -> Array:
    return sce(base, sources, 1.0)


def nearswap(base: Array, sources: Array) -> Array:
    step = np.abs(base - sources[0])
    weight = np.clip(0.5 / np.maximum(step, 1e-6), 0, 1)
    return weight * sources[0] + (1 - weight) * base


def arcee_fusion(base: Array, sources: Array) -> Array:
    q, p = (np.exp(w) / np.exp(w).sum(-1, keepdims=True) + 1e-8 for w in (base, sources[0]))
    score = np.abs(sources[0] - base) * (p * np.log(p / q)).sum(-1, keepdims=True)
    ranked = np.sort(score.reshape(-1))
    low, median, high = (ranked[int(f * (ranked.size - 1))] for f in (0.25, 0.5, 0.75))
    return base + (sources[0] - base) * (score >= median + 1.5 * (high - low))


def ram(base: Array, sources: Array) -> Array:
    deltas = sources - base
    changed = np.abs(deltas) > 0.5
    return base + (deltas * changed).sum(0) / np.maximum(changed.sum(0), 1)


def consensus_ta(base: Array, sources: Array) -> Array:
    deltas = sources - base
    total = deltas.sum(0)
    weight = np.array([0.2, 0.4, 0.6]).reshape(-1, *[1] * base.ndim)
    claims = np.abs(deltas) > weight * np.abs(total - deltas)
    return base + 0.5 * total * (claims.sum(0) >= 2)


def emr(base: Array, sources: Array) -> Array:
    deltas = sources - base
    sign = np.where(deltas.sum(0) > 0, 1, -1)
    return base + 0.4 * sign * np.abs(deltas * (deltas * sign > 0)).max(0)


def breadcrumbs_rows(base: Array, sources: Array) -> Array:
    """Keep 0.3 below the largest 0.1 of each row."""
    deltas = rows(sources - base)
    columns = deltas.shape[-1]
    kept, top = max(1, int(0.3 * columns + 1e-6)), int(0.1 * columns + 1e-6)
    order = np.argsort(-np.abs(deltas), axis=-1, kind="stable")
    mask = np.zeros(deltas.shape)
    np.put_along_axis(mask, order[..., top : top + kept], 1, axis=-1)
    return base + (deltas * mask).sum(0).reshape(base.shape)


def breadcrumbs(base: Array, sources: Array) -> Array:
    """The same with the tensor as its only row."""
    single = np.asarray(base.reshape(-1))
    return breadcrumbs_rows(single, flat(sources)).reshape(base.shape)


def widen(base: Array, sources: Array) -> Array:
    if base.ndim == 1:
        deltas = sources - base
        score = calibrated(np.abs(deltas), np.abs(deltas).mean(1, keepdims=True))
        return base + (score * deltas).sum(0)
    weights, initial = rows(sources), rows(base[None])[0]
    before, after = np.linalg.norm(initial, axis=0), np.linalg.norm(weights, axis=1)
    of_norm = np.abs(after - before)
    of_direction = 1 - (weights * initial).sum(1) / (before * after)
    scores = []
    for change in (of_norm, of_direction):
        rank = np.argsort(np.argsort(change, axis=1, kind="stable"), axis=1) / change.shape[1]
        scores += [calibrated(rank, rank.mean(1, keepdims=True))]
    score = (scores[0] + scores[1]) / 2
    return base + (score[:, None, :] * (weights - initial)).sum(0).reshape(base.shape)


def calibrated(value: Array, average: Array) -> Array:
    raised = np.exp(value)
    return np.where(value > 1.1 * average, 0.8, raised / raised.sum(0))


def widen_tokens(base: Array, sources: Array) -> Array:
    if base.ndim == 1:
        return widen(base, sources)
    turned = np.stack([source.T for source in rows(sources)])
    return widen(rows(base[None])[0].T, turned).T.reshape(base.shape)


CASES: list[tuple[str, Reference, int, dict[str, Any]]] = [
    ("nuslerp", nuslerp, 2, {"weights": [1.0, 3.0]}),
    ("nuslerp", nuslerp_rows, 2, {"weights": [1.0, 3.0], "axis": "row"}),
    ("nuslerp", nuslerp_columns, 2, {"weights": [1.0, 3.0], "axis": "col"}),
    ("multislerp", multislerp, 3, {"weights": [2.0, 3.0, 5.0]}),
    ("karcher", karcher, 3, {}),
    ("model_stock", model_stock, 3, {}),
    ("model_stock", model_stock_rows, 3, {"per_row": True}),
    ("varm", varm, 3, {}),
    ("sce", sce, 2, {"select_topk": 0.3}),
    ("sce", sce, 3, {"select_topk": 0.3}),
    ("sce", sce, 4, {"select_topk": 0.3}),
    ("sce", sce_of_all, 3, {}),
    ("nearswap", nearswap, 1, {"t": 0.5}),
    ("arcee_fusion", arcee_fusion, 1, {}),
    ("ram", ram, 3, {"epsilon": 0.5}),
    ("consensus_ta", consensus_ta, 3, {"lam_mask": [0.2, 0.4, 0.6], "alpha": 0.5}),
    ("emr", emr, 3, {"lam": 0.4}),
    ("breadcrumbs", breadcrumbs, 3, {"density": 0.3, "gamma": 0.1}),
    ("breadcrumbs", breadcrumbs_rows, 3, {"density": 0.3, "gamma": 0.1, "per_row": True}),
    ("widen", widen, 3, {"above_average_ratio": 1.1, "calibration": 0.8}),
    (
        "widen",
        widen_tokens,
        3,
        {"above_average_ratio": 1.1, "calibration": 0.8, "kind": "embedding"},
    ),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("name", "reference", "count", "parameters"),
    CASES,
    ids=[f"{reference.__name__}-{count}" for _, reference, count, _ in CASES],
)
def test_an_operator_follows_its_formula(
    name: str, reference: Reference, count: int, parameters: dict[str, Any], shape: tuple[int, ...]
) -> None:
    generator = np.random.default_rng([1, count])
    base = generator.normal(size=shape).astype(np.float32)
    common = generator.normal(size=shape)
    sources = (base + common + generator.normal(size=(count, *shape))).astype(np.float32)
    merged = operators.apply(
        name,
        base=torch.from_numpy(base),
        sources=list(torch.from_numpy(sources)),
        **parameters,
    )
    expected = torch.from_numpy(reference(base.astype(np.float64), sources.astype(np.float64)))
    torch.testing.assert_close(merged.double(), expected, rtol=1e-5, atol=1e-5)
