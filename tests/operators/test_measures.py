"""Measurements: what they give, and what is kept of them from candidate to candidate."""

from __future__ import annotations

import pytest
import torch

from evomerge.operators import Stack, products
from evomerge.operators._measures import measures


def test_only_the_latest_settings_are_kept() -> None:
    measure = measures(Stack([torch.zeros(3)]))
    calls: list[int] = []

    def find(settings: int) -> int:
        def measured() -> int:
            calls.append(settings)
            return -settings

        found: int = measure.latest("name", settings, measured)
        return found

    assert [find(settings) for settings in (1, 2, 1, 2)] == [-1, -2, -1, -2]
    assert calls == [1, 2]
    for settings in range(3, 20):
        find(settings)
    assert find(1) == -1
    assert calls.count(1) == 2


@pytest.mark.parametrize("count", [0, 5, 64, 1003])
def test_products_are_those_of_float64(count: int) -> None:
    x, y = torch.randn(2, count, generator=torch.Generator().manual_seed(0))
    a, b = x.double(), y.double()
    expected = [float(a @ a), float(a @ b), float(b @ b)]
    assert products(x, y) == pytest.approx(expected, rel=1e-12, abs=1e-12)
