"""Weighted sums on stretches of whole models, against the operator that builds checkpoints."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from evomerge.kernels.pieces import piecewise_sum
from evomerge.kernels.stack import Stack
from evomerge.operators import Settings, combine, get


def test_they_are_the_operators_to_the_bit_and_leave_the_sources_alone() -> None:
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
