"""OPCM against the published recursion, one model after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from evomerge.kernels.stack import Stack
from evomerge.operators import apply
from evomerge.operators.opcm import lambdas


def norm(model: dict[str, Any]) -> float:
    return float(np.sqrt(sum((tensor**2).sum() for tensor in model.values())))


def reference(taus: list[dict[str, Any]], alpha: float) -> dict[str, Any]:
    """The merged task vector, divided by λ at every step."""
    merged, scale, norms = taus[0], 1.0, [norm(taus[0])]
    for tau in taus[1:]:
        step = {}
        for name, delta in merged.items():
            free = tau[name]
            if delta.ndim == 2:
                U, S, Vt = np.linalg.svd(delta, full_matrices=True)
                P = U.T @ tau[name] @ Vt.T
                np.fill_diagonal(P, 0)
                split = int(np.argmax(np.cumsum(S) / S.sum() > alpha))
                P[:split, :split] = 0
                free = U @ P @ Vt
            step[name] = scale * delta + free
        norms.append(norm(tau))
        scale = norm(step) / float(np.mean(norms))
        merged = {name: delta / scale for name, delta in step.items()}
    return merged


@pytest.mark.parametrize("alpha", [0.0, 0.4, 0.8])
def test_it_equals_the_recursion_over_a_whole_model(alpha: float, draw: Any, close: Any) -> None:
    shapes = {"a": (64, 48), "b": (300, 700), "c": (48,), "d": (90000,)}
    drawn = {name: draw(*shape, count=4, seed=len(name)) for name, shape in shapes.items()}
    base = {name: tensors[0] for name, tensors in drawn.items()}
    taus = [{name: tensors[i] for name, tensors in drawn.items()} for i in (1, 2, 3)]
    sources = [{name: base[name] + tau[name] for name in base} for tau in taus]
    merged = apply("opcm", base=base, sources=sources, alpha=alpha)
    for name, delta in reference(taus, alpha).items():
        close(merged[name], base[name] + delta, 2e-5)


def test_its_lambdas_are_those_of_the_reference(golden: Any, close: Any) -> None:
    for name in ("three_sequential", "alpha0_diag_only"):
        case = golden("opcm", name)
        base, sources = case["inputs"]["base"], case["inputs"]["sources"]
        stacks = [
            Stack(
                [torch.tensor(source[key]) for source in sources],
                torch.tensor(base[key]),
                deltas=True,
                name=key,
                labels=[str(i) for i in range(len(sources))],
                model=lambda: stacks,  # noqa: B023
            )
            for key in base
        ]
        close(lambdas(stacks[0], **case["params"]), case["expected"]["lambdas"], case["tol"])


def test_the_result_has_the_mean_norm_of_the_task_vectors(draw: Any) -> None:
    base, *taus = draw(20, 16, count=4)
    merged = apply("opcm", base=base, sources=[base + tau for tau in taus])
    found = np.linalg.norm(merged.double().numpy() - base)
    assert found == pytest.approx(np.mean([np.linalg.norm(tau) for tau in taus]), rel=1e-5)


def test_task_vectors_that_cancel_leave_the_base() -> None:
    assert apply("opcm", base=[1.0, 2.0], sources=[[2.0, 4.0], [0.0, 0.0]]).tolist() == [1.0, 2.0]


def test_a_source_that_lacks_a_tensor_adds_nothing_to_its_norms(draw: Any, close: Any) -> None:
    (base, a, b), (vector, c) = draw(8, 6, count=3), draw(10, count=2)

    def stack(name: str, base: Any, sources: dict[str, Any]) -> Stack:
        inputs = [torch.from_numpy(base + tau).float() for tau in sources.values()]
        return Stack(
            inputs,
            torch.from_numpy(base).float(),
            deltas=True,
            name=name,
            labels=list(sources),
            model=lambda: stacks,
        )

    stacks = [stack("w", base, {"a": a, "b": b}), stack("v", vector, {"b": c})]
    full = reference([{"w": a, "v": 0 * c}, {"w": b, "v": c}], 0.5)
    scale = np.linalg.norm(c) / np.linalg.norm(full["v"])
    close(lambdas(stacks[1], 0.5), [1.0, scale])
