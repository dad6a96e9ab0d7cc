"""The policies that feed TSV-M."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from evomerge.kernels.stack import Stack
from evomerge.operators import apply
from evomerge.operators.rtsvm import outlier_weights


def test_weights_follow_the_outliers(golden: Any, close: Any) -> None:
    case = golden("rtsvm", "outlier_weights_z1")
    sources = [torch.tensor(source) for source in case["inputs"]["sources"]]
    x = Stack(sources, torch.tensor(case["inputs"]["base"]), deltas=True)
    close(outlier_weights(x, **case["params"]), case["expected"], case["tol"])


def test_without_outliers_it_is_tsvm(draw: Any) -> None:
    base, *sources = draw(20, 16, count=3)
    assert torch.equal(
        apply("rtsvm", base=base, sources=sources, z=100.0),
        apply("tsvm", base=base, sources=sources),
    )


def test_kappa_gives_the_denser_source_more_rank(draw: Any, close: Any) -> None:
    base, a, b = draw(20, 16, count=3)
    b[np.arange(20 * 16).reshape(20, 16) % 2 == 0] = 0  # half its entries are nearly zero
    sources = [base + a, base + b]
    rms = [np.sqrt(np.mean(tau**2)) for tau in (a, b)]
    shares = [np.mean(np.abs(tau) < 0.1 * r) for tau, r in zip((a, b), rms, strict=True)]
    ranks = [round(8 * (1 + np.mean(shares) - share)) for share in shares]
    assert ranks[0] > ranks[1]
    close(
        apply("rtsvm", base=base, sources=sources, z=100.0, kappa=1.0),
        apply("tsvm", base=base, sources=sources, ranks=ranks),
    )
