"""Average of directions on the sphere, at the average length."""

from __future__ import annotations

import torch

from evomerge.kernels.choices import AveragingSpace
from evomerge.kernels.consensus import plain_divisor
from evomerge.kernels.measures import measures
from evomerge.kernels.stack import Merged, Stack
from evomerge.kernels.sums import weighted
from evomerge.operators import Bound, Floats, operator

_LEAST_LENGTH = 1e-6  # of Σ w_i û_i, relative to Σ |w_i|: below it float32 holds but its rounding


@operator(
    on="either",
    per_source={"weight": Bound(1.0)},
    factor="weight",
    paper_defaults={"weight": 1.0},
    paper="Goddard 2025, goddard.blog/posts/multislerp-wow-what-a-cool-idea; as in mergekit",
)
def multislerp(
    x: Stack, *, weight: Floats, normalize: bool = True, space: AveragingSpace = "task_vector"
) -> Merged:
    """(Σ w_i ‖x_i‖) · m/‖m‖ with m = Σ w_i û_i, û_i = x_i / (‖x_i‖ + 1e-8).

    The published steps (project onto the tangent space at m, average there, project back) amount
    to this: the average of the tangent vectors is zero. Where the directions cancel, Σ w_i x_i.
    For task vectors the length is |Σ w_i ‖x_i‖|, so that negative weights subtract.

    Args:
        x: M task vectors or weights.
        weight: (M,) any sign.
        normalize: divide the weights by Σ w_i, of task vectors by |Σ w_i| (by 1 where that is
            below 1e-8 in magnitude; weights of models that add up to 0 so are refused).
        space: whether task vectors are averaged, if there is a base, or weights.

    Source: Goddard 2025; mergekit's ``multislerp``.
    """
    gram = measures(x).gram()
    w = torch.tensor(weight, dtype=torch.float64)
    w = w / plain_divisor(weight, signed=not x.deltas) if normalize else w
    norms = gram.diagonal().sqrt()
    factor = w / (norms + 1e-8)
    length = (factor @ gram @ factor).clamp(min=0).sqrt()
    vanishes = bool(length <= _LEAST_LENGTH * w.abs().sum())
    # a task vector that is subtracted must not come back as added: w and û_i would both turn it
    mean = (w @ norms).abs() if x.deltas else w @ norms
    factor = w if vanishes else factor * mean / length
    return weighted(x, factor.tolist())
