"""Average of the checkpoints of one run, weighted by their loss or their step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from evomerge.errors import OperatorError
from evomerge.kernels.stack import Merged, Stack
from evomerge.kernels.sums import weighted
from evomerge.operators import Bound, Floats, operator

Weighting = Literal["loss", "steps", "softmax"]


@operator(
    on="weights",
    per_source={"metric": Bound(1.0)},
    paper_defaults={"kind": "loss", "penalty": 1.0},
    paper="Yu and Choi 2025, arXiv:2504.18580; the formulas are ours",
)
def mwa(
    x: Stack,
    *,
    metric: Floats,
    kind: Weighting = "loss",
    penalty: Annotated[float, Field(ge=0)] = 1.0,
) -> Merged:
    """Σ w_i W_i, the weights w_i ∝ ℓ_i^-p, s_i^p or exp(-p (ℓ_i - min ℓ)), of sum 1.

    Args:
        x: M weights, checkpoints of one run.
        metric: (M,) the training loss ℓ_i of each, best a mean over a window, or its step s_i.
        kind: ``loss`` and ``softmax`` (of the loss) prefer a low metric, ``steps`` a high one.
        penalty: p; 0 averages evenly.

    Raises:
        OperatorError: a metric of zero or less, for ``loss`` and ``steps``.

    Source: Yu and Choi 2025, arXiv:2504.18580, of which only the abstract was available: weights by
    loss or by step, and one penalty. The formulas are ours.
    """
    return weighted(x, weights(metric, kind, penalty))


def weights(metric: Sequence[float], kind: Weighting, penalty: float) -> list[float]:
    """(M,) weights that sum to 1; arguments and errors as for `mwa`."""
    if kind != "softmax" and min(metric) <= 0:
        raise OperatorError(f"mwa: metric must be positive for kind {kind}, got {min(metric):g}")
    sign = 1 if kind == "steps" else -1
    logs = [sign * penalty * (m if kind == "softmax" else math.log(m)) for m in metric]
    parts = [math.exp(value - max(logs)) for value in logs]
    return [part / math.fsum(parts) for part in parts]
