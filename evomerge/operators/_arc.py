"""Points on the arc between two vectors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_LEAST_NORM = 1e-7
# Below it sin θ is mostly the rounding of the inner products. On the side of θ = 0 the straight
# line is as good as the arc; at θ = π there is no one arc.
_LEAST_SINE = 1e-6


class Products(NamedTuple):
    """Inner products of two vectors, or of many pairs: float64, any shape."""

    aa: Tensor
    ab: Tensor
    bb: Tensor


def arc_weights(products: Products, t: float) -> tuple[Tensor, Tensor]:
    """Factors of the two vectors at the fraction ``t`` of the arc, shaped as the products.

    sin((1 - t)θ) / sin θ and sin(tθ) / sin θ depend on θ² alone, so that what an inner product
    cannot tell of a small angle does not matter: an error of 1e-14 in the cosine is one of 1e-14
    in the factors, however parallel the vectors are.

    Args:
        products: |a|², a·b and |b|².
        t: 0 gives the first, 1 the second; others extrapolate.

    Source: Shoemake 1985, doi:10.1145/325165.325242; θ = 2 atan2(|â - b̂|, |â + b̂|) from Kahan.
    """
    norm_a, norm_b = (square.sqrt().clamp(min=_LEAST_NORM) for square in (products.aa, products.bb))
    cosine = (products.ab / (norm_a * norm_b)).clamp(-1, 1)
    theta = 2 * torch.atan2((1 - cosine).sqrt(), (1 + cosine).sqrt())
    sine = theta.sin()
    straight = sine.abs() < _LEAST_SINE
    divisor = torch.where(straight, 1.0, sine)
    first = torch.where(straight, 1 - t, ((1 - t) * theta).sin() / divisor)
    second = torch.where(straight, t, (t * theta).sin() / divisor)
    return first, second
