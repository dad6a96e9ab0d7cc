"""Fisher-weighted averaging beyond its golden vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evomerge.errors import OperatorError
from evomerge.operators import apply


@pytest.mark.parametrize("unit", [1.0, 1e-12])
@pytest.mark.parametrize("favor", [True, False])
def test_it_follows_the_formula_at_any_scale_of_fisher_values(
    unit: float, favor: bool, draw: Any, close: Any
) -> None:
    shape = (300, 700)
    sources = draw(*shape, count=3)
    F = [np.float32(unit * v**8).astype(float) for v in draw(*shape, count=3, seed=1)]
    lam = np.array([0.2, 0.5, 1.0])
    merged = apply("fisher", sources=sources, fisher=F, lam=lam.tolist(), favor_target=favor)
    floor = 1e-6 * np.mean(F)
    raised = [np.maximum(f, floor) if i == 0 or not favor else f for i, f in enumerate(F)]
    c = [w / np.linalg.norm(f) * f_ for w, f, f_ in zip(lam, F, raised, strict=True)]
    close(merged, sum(x * w for x, w in zip(sources, c, strict=True)) / sum(c), 1e-4)


def test_norms_are_those_of_the_whole_model(draw: Any, close: Any) -> None:
    shapes = {"a": (5, 4), "b": (7,)}
    sources = [{n: draw(*s, count=1, seed=i)[0] for n, s in shapes.items()} for i in range(2)]
    F = [
        {n: draw(*s, count=1, seed=i)[0] ** 2 * (i + 1) for n, s in shapes.items()}
        for i in range(2)
    ]
    norms = [np.sqrt(sum((f**2).sum() for f in each.values())) for each in F]
    measured = apply("fisher", sources=sources, fisher=F)
    for name in shapes:
        given = apply(
            "fisher",
            sources=[s[name] for s in sources],
            fisher=[f[name] for f in F],
            fisher_norms=norms,
        )
        close(measured[name], given, 1e-6)


def test_equal_sources_are_the_result(draw: Any, close: Any) -> None:
    (a,) = draw(5, 4, count=1)
    close(apply("fisher", sources=[a, a], fisher=[a**2, a**4]), a)


def test_a_tensor_without_fisher_values_gets_the_average(draw: Any, close: Any) -> None:
    a, b = draw(5, 4, count=2)
    for given in ([a**2, None], [0 * a, 0 * a]):
        merged = apply("fisher", sources=[a, b], fisher=given, lams=[1, 3])
        close(merged, (a + 3 * b) / 4)


def test_a_first_source_of_coefficient_0_leaves_no_entry_undecided(draw: Any) -> None:
    a, b, c = draw(5, 4, count=3)
    merged = apply("fisher", sources=[a, b, c], fisher=[a**2, 0 * a, 0 * a], lams=[0, 1, 1])
    assert merged.isfinite().all()


def test_fisher_values_of_another_shape_are_refused(draw: Any) -> None:
    (a,) = draw(5, 4, count=1)
    with pytest.raises(OperatorError, match=r"of shape \(4, 5\), expected \(5, 4\)"):
        apply("fisher", sources=[a], fisher=[a.T])
