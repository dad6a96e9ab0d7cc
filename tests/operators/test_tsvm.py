"""TSV-M beyond its golden vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.operators import apply


def reference(taus: Any, rank: int) -> Any:
    parts = [np.linalg.svd(tau, full_matrices=False) for tau in taus]
    U = np.concatenate([p[0][:, :rank] for p in parts], 1)
    S = np.concatenate([p[1][:rank] for p in parts])
    V = np.concatenate([p[2][:rank].T for p in parts], 1)
    (P, _, Pt), (Q, _, Qt) = (np.linalg.svd(X, full_matrices=False) for X in (U, V))
    return (P @ Pt * S) @ (Q @ Qt).T


def test_it_follows_the_published_steps(draw: Any, close: Any) -> None:
    for shape in ((64, 48), (300, 700)):
        base, *taus = draw(*shape, count=4)
        merged = apply("tsvm", base=base, sources=[base + tau for tau in taus], alpha=0.7)
        rank = min(shape) // 3
        close(merged, base + 0.7 * reference(taus, rank), 1e-4)


def test_tasks_in_orthogonal_subspaces_add_up_exactly(draw: Any, close: Any) -> None:
    base, a, b = draw(20, 16, count=3)
    a[10:], a[:, 8:], b[:10], b[:, :8] = 0, 0, 0, 0
    close(apply("tsvm", base=base, sources=[base + a, base + b]), base + a + b)


def test_a_negative_weight_subtracts(draw: Any, close: Any) -> None:
    base, a = draw(20, 16, count=2)
    close(apply("tsvm", base=base, sources=[base + a], weight=-1.0), base - a)


def test_equal_sources_share_their_directions_whatever_their_weights(draw: Any, close: Any) -> None:
    base, a = draw(20, 16, count=2)
    U, S, Vt = np.linalg.svd(a, full_matrices=False)
    S[8:] = 0
    merged = apply("tsvm", base=base, sources=[base + a] * 2, weights=[0.25, 1.25])
    close(merged, base + 0.75 * (U * S) @ Vt)


def test_more_sources_than_directions_keep_the_largest(draw: Any, close: Any) -> None:
    base, *taus = draw(3, 9, count=6)
    merged = apply("tsvm", base=base, sources=[base + tau for tau in taus])
    largest = sorted(taus, key=lambda tau: -float(np.linalg.norm(tau, 2)))[:3]
    close(merged, apply("tsvm", base=base, sources=[base + tau for tau in largest]))


def test_a_source_of_weight_0_is_as_good_as_none_but_for_the_rank(draw: Any, close: Any) -> None:
    base, a, b = draw(20, 16, count=3)
    sources = [base + a, base + b]
    close(
        apply("tsvm", base=base, sources=sources, weights=[1, 0], ranks=[8, 8]),
        apply("tsvm", base=base, sources=sources[:1], ranks=[8]),
    )
