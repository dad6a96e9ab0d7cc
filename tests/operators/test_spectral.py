"""The singular value decompositions behind the spectral operators."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evomerge.kernels.stack import Stack
from evomerge.operators import _spectral as spectral
from evomerge.operators import apply


def matrix(m: int, n: int, values: torch.Tensor) -> torch.Tensor:
    """With given singular values."""
    generator = torch.Generator().manual_seed(m + n)
    U, V = (
        torch.linalg.qr(torch.randn(size, len(values), generator=generator).double()).Q
        for size in (m, n)
    )
    found: torch.Tensor = (U * values.double()) @ V.T
    return found


@pytest.mark.parametrize("shape", [(600, 700), (700, 600)])
def test_a_large_matrix_is_decomposed_as_exactly_as_a_small_one(shape: tuple[int, int]) -> None:
    A = matrix(*shape, torch.logspace(0, -5, 600))
    found = spectral.svd(A)
    exact = torch.linalg.svdvals(A)
    assert found.S.shape == exact.shape
    torch.testing.assert_close(found.S, exact, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close((found.U * found.S) @ found.V.T, A, rtol=0, atol=1e-13)
    identity = torch.eye(600, dtype=torch.float64)
    for vectors in (found.U, found.V):
        torch.testing.assert_close(vectors.T @ vectors, identity, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [40, 600])
def test_the_null_space_is_left_out(size: int) -> None:
    A = matrix(size, size + 5, torch.linspace(1, 2, 7))
    assert spectral.svd(A).S.shape == (7,)
    assert spectral.svd(torch.zeros(size, 3)).S.shape == (0,)
    assert torch.equal(spectral.polar(torch.zeros(size, 3)), torch.zeros(size, 3).double())


def test_a_failure_of_one_algorithm_is_left_to_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(A: torch.Tensor) -> None:
        torch.linalg.cholesky(-torch.eye(2))  # raises what a failure raises

    A = matrix(20, 30, torch.linspace(1, 2, 20))
    expected = spectral.polar(A)
    monkeypatch.setattr(spectral, "_direct", fail)
    torch.testing.assert_close(spectral.polar(A), expected)


NAMES = ["tsvm", "iso_c", "iso_cts", "knots_ties", "opcm", "rtsvm"]


@pytest.mark.parametrize("name", ["tsvm", "iso_c", "iso_cts", "knots_ties"])
def test_fused_experts_are_merged_one_by_one(name: str, draw: Any) -> None:
    base, *sources = draw(3, 12, 10, count=3)
    merged = apply(name, base=base, sources=sources, role="mlp")
    for e in range(3):
        alone = apply(name, base=base[e], sources=[s[e] for s in sources])
        torch.testing.assert_close(merged[e], alone)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("role", ["embedding", "head"])
def test_embeddings_and_heads_are_not_decomposed(name: str, role: str, draw: Any) -> None:
    base, tau = draw(12, 10, count=2)
    merged = apply(name, base=base, sources=[base + tau], role=role)
    torch.testing.assert_close(merged.double(), torch.from_numpy(base + tau), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_source_equal_to_the_base_adds_no_direction(name: str, draw: Any) -> None:
    base, a, b = draw(12, 10, count=3)
    low = a[:, :2] @ b[:2, :]  # rank 2: directions of an SVD of zeros would show
    merged = apply(name, base=base, sources=[base + low, base]).double() - torch.from_numpy(base)
    assert torch.linalg.matrix_rank(merged, rtol=1e-4) <= 2


def test_factors_are_kept_until_settings_change_and_within_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = Stack([torch.ones(4, 5)])
    calls = []

    def make(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        calls.append(1)
        return (values[0],)

    for settings in (1, 1, 2, 2, 1):
        ((found,),) = spectral.factors(x, "name", settings, make)
        assert torch.equal(found, torch.ones(4, 5))
    assert len(calls) == 3
    assert x.model_cache["spectral bytes"] == 80
    monkeypatch.setattr(spectral, "_KEPT_BYTES", 79)
    for _ in range(2):
        spectral.factors(x, "name", 3, make)
    assert len(calls) == 5
    assert x.model_cache["spectral bytes"] == 0
