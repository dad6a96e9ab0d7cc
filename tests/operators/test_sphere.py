"""NuSLERP, MultiSLERP and the Karcher mean where angles are extreme."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from evomerge import operators


def pair_at(angle: float, shape: tuple[int, ...] = (64, 48)) -> tuple[Tensor, Tensor]:
    """Two float64 tensors of norms 2 and 3 with an exact angle between them."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    a = a / a.norm()
    b = b - (a * b).sum() * a
    b = b / b.norm()
    return 2 * a, 3 * (math.cos(angle) * a + math.sin(angle) * b)


@pytest.mark.parametrize("angle", [1.5, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8, 0.0])
@pytest.mark.parametrize("axis", [None, "row", "col"])
def test_nuslerp_keeps_its_digits_however_parallel_the_tensors(
    angle: float, axis: str | None
) -> None:
    shape = {None: (64, 48), "row": (1, 3072), "col": (3072, 1)}[axis]
    a, b = pair_at(angle, shape)
    t = 0.3
    if angle == 0:
        expected = (1 - t) * a + t * b
    else:
        expected = (math.sin((1 - t) * angle) * a + math.sin(t * angle) * b) / math.sin(angle)
    merged = operators.apply(
        "nuslerp", sources=[a.float(), b.float()], weights=[1 - t, t], axis=axis, space="weights"
    )
    torch.testing.assert_close(merged.double(), expected, rtol=3e-7, atol=3e-8)


@pytest.mark.parametrize("beyond", [1e-2, 1e-4])
def test_nuslerp_near_opposite_tensors_loses_only_what_float32_does(beyond: float) -> None:
    angle = math.pi - beyond
    a, b = (tensor.float().double() for tensor in pair_at(angle))
    exact = 2 * math.atan2(float((a / 2 - b / 3).norm()), float((a / 2 + b / 3).norm()))
    expected = (math.sin(0.5 * exact) * (a + b)) / math.sin(exact)
    merged = operators.apply("nuslerp", sources=[a.float(), b.float()])
    torch.testing.assert_close(merged.double(), expected, rtol=0, atol=1e-7 / beyond)


@pytest.mark.parametrize("factor", [-1.0, -3.0, -0.7])
@pytest.mark.parametrize("name", ["nuslerp", "multislerp"])
def test_opposite_tensors_are_averaged_on_the_straight_line(name: str, factor: float) -> None:
    a, _ = pair_at(1.0)
    sources = [a.float(), (factor * a).float()]
    merged = operators.apply(name, sources=sources)
    torch.testing.assert_close(merged, (sources[0] + sources[1]) / 2)


def test_three_directions_that_cancel_are_averaged_too() -> None:
    sources = [[2.0, 0.0], [-1.0, 3**0.5], [-1.0, -(3**0.5)]]
    merged = operators.apply("multislerp", sources=sources)
    torch.testing.assert_close(merged, torch.zeros(2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("angle", [2.0, 1e-3, 1e-7])
def test_of_two_tensors_multislerp_and_karcher_agree(angle: float) -> None:
    sources = [tensor.float() for tensor in pair_at(angle)]
    one = operators.apply("multislerp", sources=sources)
    two = operators.apply("karcher", sources=sources, max_iter=100, tol=1e-12)
    torch.testing.assert_close(one, two)


def test_multislerp_equals_the_published_steps_on_the_tangent_space() -> None:
    generator = torch.Generator().manual_seed(0)
    sources = torch.randn((3, 40), generator=generator)
    weight = torch.tensor([0.2, 0.3, 0.5])
    norms = sources.norm(dim=1)
    units = sources / norms.unsqueeze(1)
    mean = weight @ units
    mean = mean / mean.norm()
    tangents = units - (units @ mean).unsqueeze(1) * mean
    step = weight @ tangents
    length = step.norm() + 1e-8
    expected = (mean * length.cos() + step * length.sin() / length) * (weight @ norms)
    merged = operators.apply("multislerp", sources=list(sources), weights=weight.tolist())
    torch.testing.assert_close(merged, expected)


def test_the_karcher_mean_has_no_direction_left_to_go() -> None:
    generator = torch.Generator().manual_seed(0)
    sources = [torch.randn(500, generator=generator) for _ in range(4)]
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64) / 10
    merged = operators.apply(
        "karcher", sources=sources, weights=weight.tolist(), max_iter=100, tol=1e-9
    ).double()
    units = torch.stack([s.double() / s.double().norm() for s in sources])
    u = merged / merged.norm()
    cosine = units @ u
    theta = cosine.acos()
    step = (weight * theta / theta.sin()) @ (units - cosine.unsqueeze(1) * u)
    assert float(step.norm()) < 1e-6
    lengths = torch.stack([s.double().norm() for s in sources])
    torch.testing.assert_close(merged.norm(), weight @ lengths)


def test_nuslerp_takes_a_vector_as_one_row_whatever_the_axis() -> None:
    sources = [[1.0, 0.0, 2.0], [0.0, 3.0, 1.0]]
    flat = operators.apply("nuslerp", sources=sources)
    for axis in ("row", "col"):
        assert torch.equal(operators.apply("nuslerp", sources=sources, axis=axis), flat)
