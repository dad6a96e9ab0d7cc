"""Operators that are each other's special cases, and their limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from evomerge import operators
from evomerge.errors import OperatorError


def tensors(shape: tuple[int, ...], count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def same(one: tuple[str, dict[str, Any]], two: tuple[str, dict[str, Any]]) -> None:
    base, *sources = tensors((40, 30), 4)
    uniforms = torch.rand((3, 40, 30), generator=torch.Generator().manual_seed(1))
    merged = [
        operators.apply(name, base=base, sources=sources, uniforms=uniforms, **settings)
        for name, settings in (one, two)
    ]
    assert torch.equal(*merged)


def test_della_linear_is_della_without_an_election() -> None:
    settings = {"density": 0.6, "epsilon": 0.2, "weights": [0.5, 0.2, -0.4]}
    same(("della_linear", settings), ("della", settings | {"consensus": None, "normalize": False}))


def test_breadcrumbs_ties_is_breadcrumbs_with_an_election() -> None:
    settings = {"density": 0.6, "gamma": 0.1, "weights": [0.5, 0.2, 0.4], "normalize": True}
    same(("breadcrumbs_ties", settings), ("breadcrumbs", settings | {"consensus": "sum"}))


def test_breadcrumbs_ties_without_outliers_is_ties() -> None:
    settings = {"density": 0.4, "normalize": True}
    same(("breadcrumbs_ties", settings | {"gamma": 0.0}), ("ties", settings))


def test_della_without_spread_is_dare() -> None:
    settings = {"density": 0.5, "normalize": False, "weights": [1.0, 0.5, 0.25]}
    same(("della", settings | {"epsilon": 0.0}), ("dare_ties", settings))


def test_della_of_full_density_keeps_everything() -> None:
    same(("della_linear", {}), ("task_arithmetic", {}))


def test_della_keeps_a_column_by_its_density() -> None:
    base, source = tensors((5000, 1), 2)
    merged = operators.apply("della_linear", base=base, sources=[source], density=0.7, epsilon=0.2)
    assert merged.isfinite().all()
    assert float((merged != base).float().mean()) == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize(("density", "epsilon"), [(0.9, 0.15), (0.1, 0.1), (0.85, 0.15)])
@pytest.mark.parametrize("name", ["della", "della_linear"])
def test_della_refuses_probabilities_beyond_0_and_1(
    name: str, density: float, epsilon: float
) -> None:
    with pytest.raises(OperatorError, match=r"must lie between 0 and 1\. Set epsilon below 0\.1"):
        operators.apply(name, base=[1.0], sources=[[2.0]], density=density, epsilon=epsilon)


def test_consensus_of_nobody_is_task_arithmetic() -> None:
    same(("consensus_ta", {"k": 0}), ("task_arithmetic", {}))


def test_codiemb_is_varm_with_another_power() -> None:
    same(("codiemb", {"q": 2.0}), ("varm", {}))
    assert operators.get("codiemb").experimental


def test_nearswap_with_a_long_step_takes_the_second_model() -> None:
    first, second = tensors((40, 30), 2)
    merged = operators.apply("nearswap", base=first, sources=[second], t=100.0)
    torch.testing.assert_close(merged, second)
    assert torch.equal(operators.apply("nearswap", base=first, sources=[second], t=0.0), first)


def test_ram_keeps_what_one_source_alone_changed_in_full() -> None:
    base = torch.zeros(3)
    merged = operators.apply("ram", base=base, sources=[[1.0, 4.0, 1e-6], [0.0, 2.0, 1e-6]])
    assert torch.equal(merged, torch.tensor([1.0, 3.0, 0.0]))


def test_passthrough_keeps_every_bit_or_scales() -> None:
    (source,) = tensors((40, 30), 1)
    assert torch.equal(operators.apply("passthrough", sources=[source]), source)
    assert torch.equal(operators.apply("passthrough", sources=[source], scale=-2), -2 * source)
    with pytest.raises(OperatorError, match="passthrough merges 1 models, got 2"):
        operators.apply("passthrough", sources=[source, source])


def test_arcee_fusion_lets_everything_pass_where_most_is_equal() -> None:
    first, second = tensors((20, 30), 2)
    second[5:] = first[5:]
    merged = operators.apply("arcee_fusion", base=first, sources=[second])
    torch.testing.assert_close(merged, second)


@pytest.mark.parametrize("average", ["cos", "angle"])
def test_model_stock_of_one_source_is_the_source(average: str) -> None:
    base, source = tensors((40, 30), 2)
    for per_row in (False, True):
        merged = operators.apply(
            "model_stock", base=base, sources=[source], per_row=per_row, average=average
        )
        torch.testing.assert_close(merged, source)


@pytest.mark.parametrize(("role", "kind"), [("embedding", "embedding"), ("head", "linear")])
def test_widen_goes_by_the_role(role: str, kind: str) -> None:
    base, *sources = tensors((40, 30), 3)
    by_role = operators.apply("widen", base=base, sources=sources, role=role)
    assert torch.equal(by_role, operators.apply("widen", base=base, sources=sources, kind=kind))


def test_widen_of_one_source_is_the_source() -> None:
    base, source = tensors((40, 30), 2)
    torch.testing.assert_close(operators.apply("widen", base=base, sources=[source]), source)
