"""Promises that every operator keeps, and the golden vectors of those that have some."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge import operators, registry
from evomerge.errors import OperatorError

NAMES = registry.names("operators")
GOLDEN = Path(__file__).parents[1] / "golden"
SHAPES = [(5,), (4, 6), (2, 3, 4)]


def golden_cases() -> list[Any]:
    cases = []
    for name in NAMES:
        path = GOLDEN / f"{name}.json"
        for case in json.loads(path.read_text())["cases"] if path.exists() else []:
            cases += [pytest.param(name, case, id=f"{name}-{case['name']}")]
    return cases


@pytest.mark.parametrize(("name", "case"), golden_cases())
def test_golden_vector(name: str, case: dict[str, Any]) -> None:
    inputs = dict(case["inputs"])
    sources = inputs["sources"] if "sources" in inputs else [inputs["other"]]
    merged = operators.apply(
        name, base=inputs.get("base"), sources=sources, uniforms=inputs.get("u"), **case["params"]
    )
    expected = torch.tensor(case["expected"], dtype=torch.float64)
    assert merged.dtype == torch.float32
    torch.testing.assert_close(merged.double(), expected, rtol=case["tol"], atol=case["tol"])


def test_every_golden_file_of_an_operator_has_cases() -> None:
    for name in NAMES:
        assert json.loads((GOLDEN / f"{name}.json").read_text())["cases"]


def tensors(shape: tuple[int, ...], count: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def source_count(name: str, wanted: int) -> int:
    return 1 if operators.get(name).on == "pair" else wanted


def neutral(name: str) -> dict[str, Any]:
    """Parameters at which the operator averages: full density, weights that sum to one."""
    found = operators.get(name)
    settings: dict[str, Any] = {}
    if "density" in found.per_source:
        settings["density"] = 1.0
    if "normalize" in found.shared:
        settings["normalize"] = True
    return settings


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_identical_sources_return_the_source(name: str, shape: tuple[int, ...]) -> None:
    base, source = tensors(shape, 2)
    if operators.get(name).on == "pair":
        base = source
    same = [source] * source_count(name, 3)
    torch.testing.assert_close(
        operators.apply(name, base=base, sources=same, **neutral(name)), source
    )


@pytest.mark.parametrize("name", NAMES)
def test_sources_equal_to_the_base_return_the_base_bit_for_bit(name: str) -> None:
    (base,) = tensors((4, 6), 1)
    merged = operators.apply(name, base=base, sources=[base] * source_count(name, 2))
    if operators.get(name).on == "task_vectors":
        assert torch.equal(merged, base)
    else:
        torch.testing.assert_close(merged, base)


@pytest.mark.parametrize("name", NAMES)
def test_one_source_works(name: str) -> None:
    base, source = tensors((4, 6), 2)
    merged = operators.apply(name, base=base, sources=[source])
    assert merged.shape == base.shape
    assert merged.isfinite().all()


@pytest.mark.parametrize("name", [n for n in NAMES if operators.get(n).on != "pair"])
def test_the_order_of_sources_does_not_matter(name: str) -> None:
    base, *sources = tensors((4, 6), 4)
    weights = [0.2, 0.5, 1.1]
    uniforms = torch.rand((3, 4, 6), generator=torch.Generator().manual_seed(1))
    turned = [2, 0, 1]
    one = operators.apply(name, base=base, sources=sources, weights=weights, uniforms=uniforms)
    two = operators.apply(
        name,
        base=base,
        sources=[sources[i] for i in turned],
        weights=[weights[i] for i in turned],
        uniforms=uniforms[turned],
    )
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_left_alone_and_threads_change_no_bit(name: str) -> None:
    base, *sources = tensors((300, 700), 1 + source_count(name, 3))
    before = [t.clone() for t in (base, *sources)]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = operators.apply(name, base=base, sources=sources)
        torch.set_num_threads(2)
        two = operators.apply(name, base=base, sources=sources)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, two)
    assert all(torch.equal(a, b) for a, b in zip(before, (base, *sources), strict=True))


@pytest.mark.parametrize("name", [n for n in NAMES if operators.get(n).random])
def test_the_same_seed_gives_the_same_bits(name: str) -> None:
    base, *sources = tensors((4, 6), 3)
    draw = [
        operators.apply(name, base=base, sources=sources, density=0.5, seed=s) for s in (1, 1, 2)
    ]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])


@pytest.mark.parametrize("name", NAMES)
def test_textbook_settings_are_valid_and_documented(name: str) -> None:
    found = operators.get(name)
    base, source = tensors((4, 6), 2)
    assert set(found.textbook) <= set(found.parameters)
    assert operators.apply(name, base=base, sources=[source], **found.textbook).isfinite().all()
    assert found.paper
    assert "Source:" in (found.function.__doc__ or "")


@pytest.mark.parametrize("name", [n for n in NAMES if "density" in operators.get(n).per_source])
@pytest.mark.parametrize("density", [0.0, -0.1, 1.1, float("nan")])
def test_a_density_outside_its_range_is_refused(name: str, density: float) -> None:
    with pytest.raises(OperatorError, match="density: must lie in"):
        operators.apply(name, base=[1.0], sources=[[2.0]], density=density)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_that_differ_are_refused(name: str) -> None:
    with pytest.raises(OperatorError, match=r"shapes differ: \(1,\), \(2,\)"):
        operators.apply(name, base=[1.0], sources=[[1.0, 2.0]])
