"""Another weighted sum on every piece of a tensor, and inner products up to anywhere in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from evomerge.kernels.measures import prefix_gram
from evomerge.kernels.stack import TILE, Stack
from evomerge.operators import Settings, combine, get


def tensors(size: int, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(size)
    return [torch.randn(size, generator=generator) for _ in range(count)]


def merged(stack: Stack, space: str = "weights") -> Tensor:
    found = torch.empty(stack.size)

    def out(start: int, values: Tensor) -> None:
        found[start : start + len(values)] = values

    combine(get("segments"), stack, Settings({}, {"space": space}), out)
    return found


@pytest.mark.parametrize("size", [10, TILE, 3 * TILE + 7])
def test_every_piece_is_the_linear_merge_of_its_elements_to_the_bit(size: int) -> None:
    sources = tensors(size, 3)
    ends = [1, 4, size // 2, size - 1, size]
    weights = [tuple(np.random.default_rng(end).normal(size=3).tolist()) for end in ends]
    found = merged(Stack(sources, pieces=list(zip(ends, weights, strict=True))))
    start = 0
    for end, row in zip(ends, weights, strict=True):
        linear = torch.zeros(end - start)
        for weight, source in zip(row, sources, strict=True):
            linear += float(np.float32(weight)) * source[start:end]
        assert torch.equal(found[start:end], linear)
        start = end


def test_a_piece_of_one_source_is_its_weights_to_the_bit() -> None:
    first, second = tensors(100, 2)
    found = merged(Stack([first, second], pieces=[(40, (1.0, 0.0)), (100, (0.0, 1.0))]))
    assert torch.equal(found, torch.cat([first[:40], second[40:]]))


def test_task_vectors_are_added_to_the_base() -> None:
    base, first, second = tensors(6, 3)
    pieces = [(2, (0.5, 0.25)), (6, (0.0, 2.0))]
    found = merged(Stack([first, second], base, pieces=pieces), "task_vector")
    expected = base + torch.cat(
        [(0.5 * (first - base) + 0.25 * (second - base))[:2], 2 * (second - base)[2:]]
    )
    assert torch.allclose(found, expected, atol=1e-6)


def test_inner_products_up_to_any_element_are_those_of_float64() -> None:
    size = 2 * TILE + 100
    sources = tensors(size, 3)
    stops = [0, 1, 77, TILE, TILE + 1, 2 * TILE + 99, size]
    wide = torch.stack(sources).double()
    for stop in stops:
        gram = prefix_gram(Stack(sources), stop)
        torch.testing.assert_close(gram, wide[:, :stop] @ wide[:, :stop].T, rtol=1e-12, atol=1e-9)
