"""Fixtures of the operators' tests: golden vectors, random tensors in float64."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

GOLDEN = Path(__file__).parents[1] / "golden"

Golden = Callable[[str, str], dict[str, Any]]
Draw = Callable[..., list[NDArray[np.float64]]]


@pytest.fixture
def golden() -> Golden:
    """A case of an operator's golden vectors, by the names of both."""

    def find(operator: str, name: str) -> dict[str, Any]:
        cases = json.loads((GOLDEN / f"{operator}.json").read_text())["cases"]
        found: dict[str, Any] = next(case for case in cases if case["name"] == name)
        return found

    return find


@pytest.fixture
def draw() -> Draw:
    """Random tensors that float32 holds exactly."""

    def make(*shape: int, count: int, seed: int = 0, scale: float = 1.0) -> list[Any]:
        rng = np.random.default_rng(seed)
        return [
            (scale * rng.standard_normal(shape)).astype(np.float32).astype(np.float64)
            for _ in range(count)
        ]

    return make


@pytest.fixture
def close() -> Callable[..., None]:
    """Compare with what was computed in float64."""

    def check(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
        torch.testing.assert_close(
            torch.as_tensor(found).double(),
            torch.as_tensor(np.asarray(expected), dtype=torch.float64),
            rtol=tolerance,
            atol=tolerance,
        )

    return check
