"""Fast Fisher Grafting: its golden vector, and where it meets trimming."""

from __future__ import annotations

from typing import Any

import torch

from evomerge.operators import apply


def test_the_salient_half_is_grafted(golden: Any, close: Any) -> None:
    case = golden("ffg", "graft_density_half")
    inputs = case["inputs"]
    merged = apply(
        "ffg",
        base=inputs["base"],
        sources=[inputs["source"]],
        second_moments=[inputs["second_moment"]],
        **case["params"],
    )
    close(merged, case["expected"], case["tol"])


def test_without_second_moments_it_trims_by_magnitude(draw: Any) -> None:
    base, source = draw(300, 700, count=2)
    grafted = apply("ffg", base=base, sources=[source], second_moments=[None], density=0.3)
    trimmed = apply("sparsify", base=base, sources=[source], density=0.3)
    assert torch.equal(grafted, trimmed)


def test_a_threshold_limits_what_a_density_lets_pass(draw: Any) -> None:
    (tau,) = draw(5, 4, count=1)
    grafted = apply(
        "ffg", base=0 * tau, sources=[tau], second_moments=[None], density=0.9, threshold=1.0
    )
    assert torch.equal(grafted != 0, torch.from_numpy(tau).abs() >= 1)
