"""OTA beyond its golden vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evomerge.operators import apply


def reference(taus: Any, v: Any, power: float, density: float) -> Any:
    total, divisor = 0.0, 0.0
    for tau, moment in zip(taus, v, strict=True):
        saliency = np.float32(moment) * np.float32(tau) * np.float32(tau)
        count = int(density * tau.size)
        mask = saliency >= np.sort(saliency, None)[tau.size - count]
        g = moment**power * mask
        total, divisor = total + g * tau, divisor + g
    return total / np.where(divisor == 0, 1, divisor)


@pytest.mark.parametrize("shape", [(64, 48), (300, 700)])
@pytest.mark.parametrize("rank1", [False, True])
def test_masks_and_weights_follow_the_curvature(
    shape: tuple[int, int], rank1: bool, draw: Any, close: Any
) -> None:
    base, *taus = draw(*shape, count=4)
    v = [np.float32(1e-12 * m**2).astype(float) for m in draw(*shape, count=3, seed=1)]
    settings: dict[str, Any] = {"power": 0.25, "density": 0.3, "rank1": rank1}
    merged = apply("ota", base=0 * base, sources=taus, second_moments=v, **settings)
    if rank1:
        v = [np.outer(m.sum(1), m.sum(0)) / m.sum() for m in v]
    close(merged, reference(taus, v, 0.25, 0.3), 1e-4)


def test_a_global_density_is_that_of_the_model(draw: Any, close: Any) -> None:
    shapes = {"a": (30, 20), "b": (50,), "c": (70000,)}
    taus = {n: draw(*s, count=2, seed=len(n)) for n, s in shapes.items()}
    v = {n: [m**2 for m in draw(*s, count=2, seed=9)] for n, s in shapes.items()}
    merged = apply(
        "ota",
        base={n: 0 * taus[n][0] for n in shapes},
        sources=[{n: taus[n][i] for n in shapes} for i in range(2)],
        second_moments=[{n: v[n][i] for n in shapes} for i in range(2)],
        density=[0.2, 0.5],
        scope="global",
    )
    flat = [
        [np.concatenate([x[n][i].ravel() for n in shapes]) for i in range(2)] for x in (taus, v)
    ]
    whole = apply(
        "ota", base=0 * flat[0][0], sources=flat[0], second_moments=flat[1], density=[0.2, 0.5]
    )
    close(np.concatenate([merged[n].numpy().ravel() for n in shapes]), whole, 0)


def test_without_a_base_weights_are_averaged(draw: Any, close: Any) -> None:
    a, b = draw(5, 4, count=2)
    v = [a**2, b**2]
    merged = apply("ota", sources=[a, b], second_moments=v, power=1.0, weights=[1, 3])
    close(merged, (v[0] * a + 3 * v[1] * b) / (v[0] + 3 * v[1]))


def test_without_second_moments_all_sources_count_the_same(draw: Any, close: Any) -> None:
    base, a, b = draw(5, 4, count=3)
    merged = apply("ota", base=0 * base, sources=[a, b], second_moments=[a**2, None], density=0.5)
    kept = [np.where(np.abs(x) >= np.sort(np.abs(x), None)[10], x, 0) for x in (a, b)]
    count = sum((k != 0).astype(float) for k in kept)
    close(merged, sum(kept) / np.maximum(count, 1))


def test_equal_sources_are_the_result(draw: Any, close: Any) -> None:
    base, a, v = draw(5, 4, count=3)
    close(apply("ota", base=base, sources=[a, a], second_moments=[v**2, v**4]), a)
