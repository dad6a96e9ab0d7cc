"""What AdaMerging's coefficients are trained for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evomerge.operators.adamerging import entropy


def test_entropy_is_that_of_the_reference(golden: Any, close: Any) -> None:
    case = golden("adamerging", "entropy")
    close(entropy(torch.tensor(case["inputs"]["logits"])), case["expected"], case["tol"])


def test_impossible_classes_do_not_make_entropy_infinite() -> None:
    assert entropy(torch.tensor([0.0, 0.0, float("-inf")])).item() == pytest.approx(0.6931472)
