"""Inner products of the beginnings of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evomerge.kernels.measures import inner_products
from evomerge.kernels.stack import Stack


def prefix_grams(x: Stack, stops: Sequence[int]) -> Tensor:
    """Inner products of the sources' values over the elements [0, stop) for each stop.

    The same bits whichever other stops are asked for: float32 products are exact in float64, and
    the order of their sums is that of the tiles.

    Args:
        x: M weights or task vectors.
        stops: (S,) ascending.

    Returns:
        (S, M, M) float64.
    """
    found = torch.zeros((len(stops), x.count, x.count), dtype=torch.float64)
    total = torch.zeros((x.count, x.count), dtype=torch.float64)
    number = 0
    for start, end in x.cuts_at():
        if number == len(stops):
            break
        values = x.tile(start, end).values.flatten(1)
        while number < len(stops) and stops[number] < end:
            part = values[:, : stops[number] - start].contiguous()
            found[number] = total + inner_products(part) if part.numel() else total
            number += 1
        total = total + inner_products(values)
        while number < len(stops) and stops[number] == end:
            found[number] = total
            number += 1
    return found
