"""Measurements: what they give, and what is kept of them from candidate to candidate."""

from __future__ import annotations

import functools
import operator

import pytest
import torch

from evomerge.kernels.measures import measures, products
from evomerge.kernels.stack import Stack


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
def test_products_are_summed_in_64_lanes_on_every_machine(count: int) -> None:
    x, y = torch.randn(2, count, generator=torch.Generator().manual_seed(0))
    a, b = x.double(), y.double()
    for found, terms in zip(products(x, y), (a * a, a * b, b * b), strict=True):
        lanes = [0.0] * 64
        for j, term in enumerate(terms.tolist()):
            lanes[j % 64 if j < count // 64 * 64 else 0] += term
        assert found == functools.reduce(operator.add, lanes)
