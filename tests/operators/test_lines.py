"""Scaling by depth."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evomerge.operators import apply
from evomerge.operators.lines import factors, multi_task_alpha


def test_factors_are_those_of_the_reference(golden: Any, close: Any) -> None:
    case = golden("lines", "factors_L5")
    found = factors(case["inputs"]["layers"], **case["params"])
    close(found, case["expected"], case["tol"])


def test_the_head_may_count_as_the_last_block() -> None:
    assert factors(["head"], alpha=0.25, beta=0.5, num_layers=5) == [0.25]
    assert factors(["head"], alpha=0.25, beta=0.5, num_layers=5, head="last") == [0.75]


def test_a_single_block_is_the_last() -> None:
    assert factors([0, None], alpha=0.25, beta=0.5, num_layers=1) == [0.75, 0.25]


def test_alpha_keeps_the_size_of_the_mean(golden: Any, close: Any) -> None:
    case = golden("lines", "multi_task_alpha")
    taus = [torch.tensor(tau) for tau in case["inputs"]["task_vectors"]]
    delta = torch.tensor(case["inputs"]["merged_task_vector"])
    close(multi_task_alpha([(taus, delta)]), case["expected"], case["tol"])
    assert multi_task_alpha([(taus, torch.stack(taus).sum(0))] * 2) == pytest.approx(1 / 3)


def test_the_sum_is_scaled_by_the_block_it_lies_in() -> None:
    settings: dict[str, Any] = {"alpha": 0.25, "beta": 0.5, "num_layers": 5}
    tensors: dict[str, Any] = {"base": [1.0, 2.0], "sources": [[2.0, 2.0], [1.0, 6.0]]}
    assert apply("lines", **tensors, **settings).tolist() == [1.25, 3.0]
    assert apply("lines", **tensors, layer=4, **settings).tolist() == [1.75, 5.0]
