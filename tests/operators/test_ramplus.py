"""RAM+ beyond its golden vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from evomerge.kernels.stack import Stack
from evomerge.operators import apply
from evomerge.operators.ramplus import amplification


def test_lambdas_follow_the_reference(golden: Any, close: Any) -> None:
    for name in ("tensor_local_alpha1", "tensor_local_unclipped", "tensor_local_defaults"):
        case = golden("ramplus", name)
        sources = [torch.tensor(source) for source in case["inputs"]["sources"]]
        x = Stack(sources, torch.tensor(case["inputs"]["base"]), deltas=True)
        close(amplification(x, **case["params"]), case["expected"]["lambdas"], case["tol"])


def test_global_counts_are_those_of_the_whole_model(golden: Any, close: Any) -> None:
    case = golden("ramplus", "global_two_tensors")
    tensors = dict(zip("ab", case["inputs"]["tensors"], strict=True))
    merged = apply(
        "ramplus",
        base={name: tensor["base"] for name, tensor in tensors.items()},
        sources=[{name: t["sources"][i] for name, t in tensors.items()} for i in range(3)],
        **case["params"],
    )
    for found, expected in zip(merged.values(), case["expected"]["merged"], strict=True):
        close(found, expected, case["tol"])


@pytest.mark.parametrize("shape", [(64, 48), (300, 700)])
def test_it_follows_the_formula(shape: tuple[int, int], draw: Any, close: Any) -> None:
    base, *taus = draw(*shape, count=4)
    noise = draw(*shape, count=3, seed=1)
    taus = [np.where(n > 0.3, tau, 0) for tau, n in zip(taus, noise, strict=True)]
    merged = apply("ramplus", base=0 * base, sources=taus, epsilon=0.01, r=0.4, alpha=3.0)
    changed = np.stack([np.abs(tau) > 0.01 for tau in taus])
    count = changed.sum(0)
    shared, alone = (changed & (count > 1)).sum((1, 2)), (changed & (count == 1)).sum((1, 2))
    lam = 1 + 0.4 * np.clip(shared / alone, 0, 3)
    kept = changed * np.stack(taus)
    amplified = (lam[:, None, None] * kept).sum(0)
    close(merged, np.where(count == 1, amplified, kept.sum(0) / np.maximum(count, 1)))


def test_equal_sources_are_the_result(draw: Any, close: Any) -> None:
    base, a = draw(20, 16, count=2)
    close(apply("ramplus", base=base, sources=[base + a] * 3, epsilon=0.0), base + a)
