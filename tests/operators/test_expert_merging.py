"""Chunk-wise coefficients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from evomerge.errors import OperatorError
from evomerge.operators import apply


@pytest.mark.parametrize("chunks", [1, 7, 1000])
def test_chunks_are_cut_across_tiles(chunks: int, draw: Any, close: Any) -> None:
    taus = draw(300, 700, count=2)
    raw = draw(chunks, count=2, seed=1)
    merged = apply("expert_merging", base=0 * taus[0], sources=taus, raw=raw)
    size = -(-300 * 700 // chunks)
    factors = [np.repeat(1 / (1 + np.exp(-a)), size)[: 300 * 700].reshape(300, 700) for a in raw]
    close(merged, sum(f * tau for f, tau in zip(factors, taus, strict=True)))


def test_a_tensor_without_coefficients_stays(draw: Any) -> None:
    base, a, b = draw(5, 4, count=3)
    merged = apply("expert_merging", base=base, sources=[a, b], raw=[None, None])
    assert torch.equal(merged, torch.from_numpy(base).float())


def test_coefficients_must_be_one_row(draw: Any) -> None:
    base, a = draw(5, 4, count=2)
    with pytest.raises(OperatorError, match=r"shape \(5, 4\), expected one number a chunk"):
        apply("expert_merging", base=base, sources=[a], raw=[a])
