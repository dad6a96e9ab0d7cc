"""RegMean beyond its golden vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evomerge.errors import OperatorError
from evomerge.operators import apply


def grams(draw: Any, width: int, tokens: int) -> list[Any]:
    inputs = draw(tokens, width, count=2, seed=1)
    return [np.float32(x.T @ x / tokens).astype(float) for x in inputs]


def test_it_minimizes_the_difference_of_outputs(draw: Any, close: Any) -> None:
    sources = draw(64, 48, count=2)
    G = grams(draw, 48, 200)
    merged = apply("regmean", sources=sources, grams=G, offdiag=1.0, ridge=0.0, coeffs=[1, 2])
    normal = np.linalg.solve(G[0] + 2 * G[1], G[0] @ sources[0].T + 2 * G[1] @ sources[1].T)
    close(merged, normal.T)


@pytest.mark.parametrize("offdiag", [0.0, 0.5, 1.0])
def test_equal_sources_are_the_result_even_if_inputs_were_never_seen(
    offdiag: float, draw: Any, close: Any
) -> None:
    (a,) = draw(64, 48, count=1)
    G = grams(draw, 48, 10)  # rank 10 each
    G[0][:, :4], G[0][:4], G[1][:, :4], G[1][:4] = 0, 0, 0, 0
    close(apply("regmean", sources=[a, a], grams=G, offdiag=offdiag), a, 1e-4)


def test_diagonals_do_for_matrices_without_off_diagonals(draw: Any, close: Any) -> None:
    sources = draw(300, 700, count=2)
    G = grams(draw, 700, 900)
    dense = apply("regmean", sources=sources, grams=G, offdiag=0.0)
    thin = apply("regmean", sources=sources, grams=[np.diag(g).copy() for g in G])
    close(dense, thin, 0)
    d = [np.diag(g) for g in G]
    close(thin, (sources[0] * d[0] + sources[1] * d[1]) / (d[0] + d[1]))
    solved = apply("regmean", sources=sources, grams=[np.diag(np.diag(g)) for g in G])
    close(solved, thin)


def test_without_gram_matrices_it_is_the_mean(draw: Any, close: Any) -> None:
    a, b = draw(6, 4, count=2)
    close(apply("regmean", sources=[a, b], grams=[np.eye(4), None]), (a + b) / 2)
    close(apply("regmean", sources=[a[0], b[0]], grams=[None, None]), (a[0] + b[0]) / 2)
    close(apply("regmean", sources=[a, b], grams=[np.eye(4)] * 2, coeff=0.0), (a + b) / 2)


def test_singular_equations_and_wrong_shapes_are_refused(draw: Any) -> None:
    a, b = draw(6, 4, count=2)
    gram = np.diag([1.0, 1, 1, 0])
    gram[0, 1] = gram[1, 0] = 0.5
    with pytest.raises(OperatorError, match=r"singular\. Raise ridge"):
        apply("regmean", sources=[a, b], grams=[gram] * 2, ridge=0.0)
    with pytest.raises(OperatorError, match=r"shape \(6, 6\), expected \(4, 4\) or \(4,\)"):
        apply("regmean", sources=[a], grams=[np.eye(6)])
