"""Iso-CTS beyond its golden vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evomerge.operators import apply
from evomerge.operators.iso_cts import split


def polar(matrix: Any) -> Any:
    U, _, Vt = np.linalg.svd(matrix, full_matrices=False)
    return U @ Vt


def reference(taus: Any, common: int, task: int) -> Any:
    U, S, Vt = np.linalg.svd(sum(taus), full_matrices=False)
    Uc = U[:, :common]
    parts = [
        tuple(
            part[..., :task] if i < 2 else part[:task].T
            for i, part in enumerate(np.linalg.svd(tau - Uc @ Uc.T @ tau, full_matrices=False))
        )
        for tau in taus
    ]
    parts.append((Uc, S[:common], Vt[:common].T))
    left, values, right = (np.concatenate([p[i] for p in parts], -1) for i in range(3))
    return values.mean() * polar(left) @ polar(right).T


@pytest.mark.parametrize("shape", [(64, 48), (300, 700)])
def test_it_follows_the_published_steps(shape: tuple[int, int], draw: Any, close: Any) -> None:
    base, *taus = draw(*shape, count=4)
    sources = [base + tau for tau in taus]
    merged = apply("iso_cts", base=base, sources=sources, common_space_fraction=0.7)
    common, task = split(min(shape), 3, 0.7)
    assert task
    close(merged, base + reference(taus, common, task), 1e-4)


def test_all_common_is_iso_c(draw: Any, close: Any) -> None:
    base, *taus = draw(20, 16, count=3)
    sources = [base + tau for tau in taus]
    close(
        apply("iso_cts", base=base, sources=sources, common_space_fraction=1.0),
        apply("iso_c", base=base, sources=sources),
    )


@pytest.mark.parametrize(
    ("rank", "count", "fraction", "expected"),
    [
        (4, 2, 0.5, (2, 1)),
        (10, 3, 0.8, (7, 1)),
        (5, 2, 0.0, (1, 2)),  # half to even
        (3, 2, 0.0, (1, 1)),  # rounding up would take more than there are
        (100, 1, 0.29, (29, 71)),
    ],
)
def test_directions_are_shared_out(
    rank: int, count: int, fraction: float, expected: tuple[int, int]
) -> None:
    assert split(rank, count, fraction) == expected
