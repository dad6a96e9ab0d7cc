from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evomerge import operators
from evomerge.kernels import selection
from evomerge.kernels.measures import measures
from evomerge.kernels.selection import selected
from evomerge.kernels.stack import TILE, Stack


def sources_of(count: int, *, coarse: bool) -> list[Tensor]:
    """Several tiles; coarse ones have few different values, as bfloat16 deltas do."""
    generator = torch.Generator().manual_seed(0)
    shape = (2 * TILE // 600 + 3, 600)
    found = [torch.randn(shape, generator=generator) for _ in range(count)]
    # rows differ in scale, and some elements not at all
    scale = torch.rand((shape[0], 1), generator=generator)
    found = [tensor.mul_(scale).mul_(torch.arange(600) % 7 > 0) for tensor in found]
    return [tensor.mul_(50).round_().div_(50) for tensor in found] if coarse else found


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("fraction", [0.0, 1e-7, 0.001, 0.1, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_selecting_in_one_pass_finds_what_the_ranks_find(
    count: int, fraction: float, coarse: bool
) -> None:
    x = Stack(sources_of(count, coarse=coarse))
    exact = selection._by_ranking(measures(x), fraction)
    found = selected(x, fraction)
    assert found.cut == exact.cut
    torch.testing.assert_close(found.squares, exact.squares, rtol=1e-6, atol=0)


def test_one_pass_is_all_it_takes() -> None:
    x = Stack(sources_of(3, coarse=True))
    for fraction in (0.1, 0.5, 0.9):
        assert selection._at_once(x, measures(x), fraction) is not None


def test_a_sample_that_misleads_is_found_out() -> None:
    first = torch.arange(1.0, 300_001.0)
    first[: 1 << 10] = 1e9  # the first block of the sample is like no other
    x = Stack([first, torch.zeros(300_000)])
    exact = selection._by_ranking(measures(x), 0.001)
    assert selected(x, 0.001).cut == exact.cut


def test_what_no_source_agrees_on_or_changes_is_the_base() -> None:
    base = torch.tensor([1.0, 2.0, 3.0])
    merged = operators.apply("sce", base=base, sources=[[1.0, 3.0, 2.5], [1.0, 1.0, 3.5]])
    assert float(merged[0]) == 1.0
    assert float(merged[1]) == 3.0  # a sum of zero elects plus


def test_a_coefficient_floor_weighs_small_task_vectors_evenly() -> None:
    base = torch.zeros(2)
    sources = [[1e-4, 1e-4], [3e-4, 1e-4]]
    merged = operators.apply("sce", base=base, sources=sources, coefficient_floor=1e-6)
    torch.testing.assert_close(merged, torch.tensor([2e-4, 1e-4]))
    plain = operators.apply("sce", base=base, sources=sources)
    assert float(plain[0]) == pytest.approx((2 * 1e-4 + 10 * 3e-4) / 12)
