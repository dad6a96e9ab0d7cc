"""KnOTS-TIES beyond its golden vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from evomerge.operators import apply


@pytest.mark.parametrize("shape", [(64, 48), (300, 700)])
def test_it_is_ties_in_the_common_basis(shape: tuple[int, int], draw: Any, close: Any) -> None:
    base, *taus = draw(*shape, count=4)
    settings: dict[str, Any] = {"density": [0.3, 0.5, 1.0], "lam": 0.6}
    merged = apply("knots_ties", base=base, sources=[base + tau for tau in taus], **settings)
    U, S, Vt = np.linalg.svd(np.concatenate(taus, 1), full_matrices=False)
    parts = np.split((S[:, None] * Vt), 3, axis=1)
    agreed = apply("ties", base=np.zeros_like(parts[0]), sources=parts, **settings)
    close(merged, base + U @ agreed.double().numpy(), 1e-4)


def test_equal_sources_are_the_result(draw: Any, close: Any) -> None:
    base, a = draw(20, 16, count=2)
    close(apply("knots_ties", base=base, sources=[base + a] * 3), base + a)


def test_singular_values_up_to_the_tolerance_are_dropped(draw: Any) -> None:
    base, a = draw(20, 16, count=2)
    merged = apply("knots_ties", base=base, sources=[base + a], tol=1000.0)
    assert torch.equal(merged, torch.from_numpy(base).float())


def test_a_vector_gets_the_weighted_mean(draw: Any, close: Any) -> None:
    base, a, b = draw(16, count=3)
    sources = [base + a, base + b]
    merged = apply("knots_ties", base=base, sources=sources, weights=[1, 3], lam=0.5)
    close(merged, base + 0.5 * (a + 3 * b) / 4)
