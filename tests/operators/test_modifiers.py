"""Modifiers in their order, before and after an operator."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evomerge.operators import apply


def test_sparsify_then_compeft_then_ties_then_lines(golden: Any, close: Any) -> None:
    case = golden("composition", "dare_compeft_lines_ties")
    params, inputs = case["params"], case["inputs"]
    sparsify = {"method": "random", "density": params.pop("density"), "rescale": "inverse"}
    merged = apply(
        "ties",
        base=inputs["base"],
        sources=inputs["sources"],
        uniforms=inputs["u"],
        sparsify=sparsify,
        **params,
    )
    close(merged, case["expected"], case["tol"])


@pytest.mark.parametrize(
    "settings",
    [
        {"density": 0.3, "method": "magnitude", "rescale": "l2"},
        {"density": 0.6, "method": "random", "rescale": "inverse"},
        {"density": 0.6, "method": "della", "rescale": "l1"},
        {"density": 0.3, "method": "breadcrumbs", "rescale": "none", "gamma": 0.1},
    ],
)
def test_the_operator_sparsify_is_task_arithmetic_with_the_modifier(
    settings: dict[str, Any], draw: Any
) -> None:
    base, *sources = draw(30, 20, count=3)
    uniforms = torch.rand(2, 30, 20, generator=torch.Generator().manual_seed(0))
    tensors = {"base": base, "sources": sources, "uniforms": uniforms, "weights": [0.3, 0.7]}
    one = apply("sparsify", **tensors, **settings)
    two = apply("task_arithmetic", **tensors, sparsify=settings)
    assert torch.equal(one, two)


@pytest.mark.parametrize("method", ["della", "random"])
@pytest.mark.parametrize("name", ["ties", "breadcrumbs", "pcb"])
def test_what_is_sparsified_at_random_can_be_ranked(name: str, method: str, draw: Any) -> None:
    sources = draw(30, 20, count=2)
    uniforms = torch.rand(2, 30, 20, generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"density": 0.6, "method": method}
    ranked: dict[str, Any] = {} if name == "pcb" else {"density": 0.5}
    base = torch.zeros(30, 20)
    sparse = [
        apply("sparsify", sources=[source], uniforms=u[None], **settings)
        for source, u in zip(sources, uniforms, strict=True)
    ]
    expected = apply(name, base=base, sources=sparse, **ranked)
    merged = apply(name, base=base, sources=sources, uniforms=uniforms, sparsify=settings, **ranked)
    assert torch.equal(merged, expected)


@pytest.mark.parametrize("name", ["dare_linear", "della_linear"])
def test_numbers_of_a_modifier_are_not_those_of_its_operator(name: str) -> None:
    base, source = torch.zeros(400, 500), torch.ones(400, 500)
    sparsify = {"method": "random", "density": 0.5, "rescale": "inverse"}
    merged = apply(name, base=base, sources=[source], density=0.5, sparsify=sparsify)
    kept = float((merged != 0).double().mean())
    # what is zero already is what della drops first
    assert kept == pytest.approx({"dare_linear": 0.25, "della_linear": 0.2875}[name], abs=0.005)
    assert 0.98 < float(merged.double().mean()) < 1.02


def test_the_operator_compeft_is_task_arithmetic_with_the_modifier(draw: Any) -> None:
    base, *sources = draw(30, 20, count=3)
    settings: dict[str, Any] = {"density": 0.3, "alpha": 2.0}
    one = apply("compeft", base=base, sources=sources, **settings)
    two = apply("task_arithmetic", base=base, sources=sources, compeft=settings)
    assert torch.equal(one, two)
