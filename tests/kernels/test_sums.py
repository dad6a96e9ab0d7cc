"""Sums in one pass have the bits of those that go tile by tile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.kernels.passes import added
from evomerge.kernels.stack import TILE, NotFiniteError, Stack
from evomerge.kernels.sums import piecewise_sum, weighted
from evomerge.operators import Settings, combine, get

WEIGHTS = (0.3, -1.7, 1.0)


def odd(seed: int, count: int = TILE + 1003) -> torch.Tensor:
    values = torch.randn(count, generator=torch.Generator().manual_seed(seed))
    values[::5], values[1::7] = 0.0, -0.0
    values[2::11] *= 1e-40  # not normal
    values[3::13] *= 1e30
    return values.bfloat16()


def stack(**changes: Any) -> Stack:
    sources = [odd(seed) for seed in range(len(WEIGHTS))]
    return Stack(**{"inputs": sources, "base": odd(9), "deltas": True, **changes})


@pytest.mark.parametrize("deltas", [True, False])
@pytest.mark.parametrize("scales", [{}, {"factor": 0.7}, {"divisor": 3.1}])
@pytest.mark.parametrize("again", [1.0, 0.9])
def test_a_sum_at_once_is_that_of_its_tiles(
    deltas: bool, scales: dict[str, float], again: float
) -> None:
    x = stack(deltas=deltas)
    sums = weighted(x, WEIGHTS, **scales)
    assert sums.at_once is not None
    for tile in x.tiles():
        expected = sums.kernel(tile) * again
        expected = added(tile.base, expected) if deltas and tile.base is not None else expected
        found = sums.at_once(tile.start, tile.start + expected.numel(), again)
        assert torch.equal(found.view(torch.int32), expected.view(torch.int32))


def test_what_equals_the_base_keeps_its_negative_zeros() -> None:
    base = odd(9)
    sums = weighted(stack(inputs=[base] * 3), WEIGHTS)
    assert sums.at_once is not None
    found = sums.at_once(0, 1000, 1.0).bfloat16()
    assert torch.equal(found.view(torch.int16), base[:1000].view(torch.int16))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("deltas", [True, False])
def test_a_sum_at_once_notices_what_is_not_finite(bad: float, deltas: bool) -> None:
    broken = odd(1)
    broken[777] = bad
    sums = weighted(stack(inputs=[odd(0), broken, odd(2)], deltas=deltas, name="up"), WEIGHTS)
    assert sums.at_once is not None
    with pytest.raises(NotFiniteError, match="up"):
        sums.at_once(0, 1000, 1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": [odd(0), odd(1).float(), odd(2)]},
        {"base": odd(9).float()},
        {"inputs": [odd(0), odd(1), odd(2, 2 * odd(0).numel())[::2]]},
        {"changes": (lambda tile: tile.values,)},
        {"by_row": True},
    ],
    ids=["a wider source", "a wider base", "not in one piece", "a modifier", "by row"],
)
def test_anything_else_goes_tile_by_tile(changes: dict[str, Any]) -> None:
    assert weighted(stack(**changes), WEIGHTS).at_once is None


def test_piecewise_sums_are_those_of_the_operator_segments_and_leave_the_sources_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    sources = list(torch.randn(3, 1000, generator=generator))
    before = [source.clone() for source in sources]
    ends = [1, 64, 700, 1000]
    rows = np.random.default_rng(0).normal(size=(4, 3)).tolist()
    expected = torch.empty(1000)

    def out(start: int, values: Tensor) -> None:
        expected[start : start + len(values)] = values

    stack = Stack(sources, pieces=list(zip(ends, rows, strict=True)))
    combine(get("segments"), stack, Settings({}, {"space": "weights"}), out)
    assert torch.equal(piecewise_sum(sources, ends, rows), expected)
    assert all(torch.equal(a, b) for a, b in zip(sources, before, strict=True))
