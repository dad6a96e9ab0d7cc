"""Scaling by depth."""

from __future__ import annotations

from typing import Any

import pytest

from evomerge.errors import OperatorError
from evomerge.operators import apply


def test_factors_are_those_of_the_reference(golden: Any) -> None:
    case = golden("lines", "factors_L5")
    for layer, factor in zip(case["inputs"]["layers"], case["expected"], strict=True):
        merged = apply("lines", sources=[[1.0]], layer=layer, **case["params"])
        assert merged.item() == factor


def test_a_single_block_is_the_last() -> None:
    settings: dict[str, Any] = {"alpha": 0.25, "beta": 0.5, "num_layers": 1}
    assert apply("lines", sources=[[1.0]], layer=0, **settings).item() == 0.75
    assert apply("lines", sources=[[1.0]], **settings).item() == 0.25


def test_a_layer_beyond_the_last_is_refused() -> None:
    with pytest.raises(OperatorError, match="layer 5 of 5"):
        apply("lines", sources=[[1.0]], layer=5, num_layers=5)


def test_the_sum_is_scaled_by_the_block_it_lies_in() -> None:
    settings: dict[str, Any] = {"alpha": 0.25, "beta": 0.5, "num_layers": 5}
    tensors: dict[str, Any] = {"base": [1.0, 2.0], "sources": [[2.0, 2.0], [1.0, 6.0]]}
    assert apply("lines", **tensors, **settings).tolist() == [1.25, 3.0]
    assert apply("lines", **tensors, layer=4, **settings).tolist() == [1.75, 5.0]
