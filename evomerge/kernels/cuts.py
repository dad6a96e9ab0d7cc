"""The threshold between the k largest of some numbers and the rest, exact among equal numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Cut(NamedTuple):
    """The threshold between the k largest of some numbers and the rest.

    Among equal numbers the one with the lower index counts as larger (rule R3).

    Attributes:
        value: the k-th largest number; all larger ones are among the k.
        last: flat index of the last number equal to ``value`` that is among the k.
    """

    value: float
    last: int


ALL = Cut(-1.0, -1)
NONE = Cut(math.inf, -1)


def keep(values: Tensor, cut: Cut, start: int, *, out: Tensor | None = None) -> Tensor:
    """The values whose magnitudes are among the k largest, the others set to zero.

    Args:
        values: float32 of any shape.
        cut: of the magnitudes.
        start: flat index of the first value.
        out: where to write the result; may be ``values``.
    """
    if cut.value <= 0:
        return values
    # hardshrink keeps what is larger than its argument: many times faster than a mask
    shrink = torch.hardshrink
    level = min(max(cut.last + 1 - start, 0), values.numel())  # equal ones before this stay
    if level == 0:
        return shrink(values, cut.value, out=out)
    below = below_float(cut.value)
    if level == values.numel():
        return shrink(values, below, out=out)
    flat = values.reshape(-1)
    parts = [shrink(flat[:level], below), shrink(flat[level:], cut.value)]
    kept = torch.cat(parts).view(values.shape)
    return kept if out is None else out.copy_(kept)


def below_float(value: float) -> float:
    """The largest float32 below a number."""
    number = torch.tensor(value, dtype=torch.float32)
    return float(torch.nextafter(number, torch.tensor(-math.inf)))


def exact_cut(numbers: Tensor, places: Tensor, count: int) -> Cut:
    """The cut below the ``count`` largest of some numbers.

    Args:
        numbers: (n,) float32, n at least ``count``.
        places: (n,) int64, ascending: their flat indices.
    """
    value = torch.from_numpy(np.sort(numbers.numpy()))[-count]  # many times a selection's speed
    level = places[numbers == value]
    larger = int((numbers > value).sum())
    return Cut(float(value), int(level[count - larger - 1]))


def places_of(values: Tensor) -> Tensor:
    """(k,) int64, ascending: the indices of the values, (n,) float32, that are not zero."""
    inside = values.bool()
    if inside.device.type != "cpu":
        return inside.nonzero().flatten()
    # NumPy finds them many times faster than torch
    return torch.from_numpy(np.flatnonzero(inside.numpy()))
