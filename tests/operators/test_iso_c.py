"""Iso-C beyond its golden vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.operators import apply


def test_all_singular_values_become_their_mean(draw: Any, close: Any) -> None:
    for shape in ((64, 48), (300, 700)):
        base, *taus = draw(*shape, count=4)
        merged = apply("iso_c", base=base, sources=[base + tau for tau in taus], alpha=0.7)
        U, S, Vt = np.linalg.svd(sum(taus), full_matrices=False)
        close(merged, base + 0.7 * S.mean() * U @ Vt, 1e-4)


def test_of_a_low_rank_sum_only_its_own_directions_are_used(draw: Any, close: Any) -> None:
    base, a, b = draw(20, 16, count=3)
    low = a[:, :2] @ b[:2, :]
    U, S, Vt = np.linalg.svd(low, full_matrices=False)
    directions = U[:, :2] @ Vt[:2]
    sources = [base + low]
    close(apply("iso_c", base=base, sources=sources), base + S[:2].sum() / 16 * directions)
    kept = apply("iso_c", base=base, sources=sources, mean="kept")
    close(kept, base + S[:2].mean() * directions)


def test_an_isotropic_task_vector_is_a_fixed_point(draw: Any, close: Any) -> None:
    base, a = draw(20, 16, count=2)
    U, _, Vt = np.linalg.svd(a, full_matrices=False)
    close(apply("iso_c", base=base, sources=[base + 3 * U @ Vt]), base + 3 * U @ Vt)
