"""Densities of 0, a spread of each source's own, points beyond the ends of an arc."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from evomerge import operators
from evomerge.errors import ConfigError, OperatorError

BASE = torch.zeros(3, 4)
ONE = torch.arange(1.0, 13).view(3, 4)
TWO = -torch.arange(13.0, 25).view(3, 4)


@pytest.mark.parametrize(
    "name", ["ties", "dare_linear", "dare_ties", "della", "della_linear", "breadcrumbs",
             "breadcrumbs_ties", "sparsify"],
)  # fmt: skip
@pytest.mark.parametrize("rescale", ["inverse", "l1", "none"])
def test_nothing_is_kept_of_a_source_of_density_0(name: str, rescale: str) -> None:
    keys: dict[str, Any] = {"rescale": rescale, "normalize": False}
    keys = {key: value for key, value in keys.items() if key in operators.get(name).parameters}
    found = operators.apply(name, base=BASE, sources=[ONE, TWO], density=[1.0, 0.0], **keys)
    assert torch.equal(found, ONE)


@pytest.mark.parametrize("method", ["magnitude", "random", "della", "breadcrumbs"])
@pytest.mark.parametrize("rescale", ["inverse", "l1", "l2", "linf", "none"])
def test_a_task_vector_of_density_0_is_none_before_any_operator(method: str, rescale: str) -> None:
    sparsify = {"density": [0.0, 1.0], "method": method, "rescale": rescale}
    found = operators.apply("task_arithmetic", base=BASE, sources=[ONE, TWO], sparsify=sparsify)
    assert torch.equal(found, TWO)


def test_della_keeps_each_source_by_probabilities_of_its_own() -> None:
    # a row of three: d - e, d, d + e against draws of 0.45
    tau = torch.tensor([[1.0, 2.0, 3.0]])
    drawn = torch.full((2, 1, 3), 0.45)
    found = [
        operators.apply(
            "della_linear", base=torch.zeros(1, 3), sources=[tau, tau], weight=weight,
            density=0.5, epsilon=[0.0, 0.2], rescale="none", uniforms=drawn,
        )
        for weight in ([1.0, 0.0], [0.0, 1.0])
    ]  # fmt: skip
    assert found[0].tolist() == [[1, 2, 3]]
    assert found[1].tolist() == [[0, 2, 3]]  # 0.3 is less than what was drawn


def test_breadcrumbs_drop_the_outliers_of_each_source() -> None:
    tau = torch.arange(1.0, 11)
    found = operators.apply(
        "breadcrumbs", base=torch.zeros(10), sources=[tau, tau], weight=[1.0, 10.0],
        density=0.5, gamma=[0.0, 0.2],
    )  # fmt: skip
    assert found.tolist() == [0, 0, 0, 40, 50, 66, 77, 88, 9, 10]


@pytest.mark.parametrize("t", [-0.5, 1.5])
def test_slerp_goes_on_beyond_its_ends(t: float) -> None:
    one, two = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 3.0])
    found = operators.apply("slerp", base=one, sources=[two], t=t)
    angle = math.pi / 2
    wanted = [2 * math.sin((1 - t) * angle), 3 * math.sin(t * angle)]
    assert torch.allclose(found, torch.tensor(wanted), rtol=1e-6, atol=0)


def test_slerp_of_parallel_tensors_goes_on_straight() -> None:
    one: Tensor = torch.tensor([1.0, 2.0])
    assert operators.apply("slerp", base=one, sources=[2 * one], t=1.5).tolist() == [2.5, 5.0]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"epsilon": 0.5}, r"epsilon: must lie in \[0, 0.5\), got 0.5"),
        ({"epsilon": [0.1, -0.1]}, r"epsilon: must lie in \[0, 0.5\), got -0.1"),
        ({"density": 1.5}, r"density: must lie in \[0, 1\], got 1.5"),
        ({"density": [0.1, 0.9], "epsilon": [0.05, 0.2]}, "Set epsilon below 0.1"),
    ],
)
def test_other_values_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises((OperatorError, ConfigError), match=message):
        operators.apply("della", base=BASE, sources=[ONE, TWO], **{"density": 0.7, **keys})
