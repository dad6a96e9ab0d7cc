"""Loops over arrays as machine code.

Numba fuses no product with a sum and reorders nothing, so that a loop gives the same bits on every
machine, those of the same operations one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])
LANES = 64  # sums that grow side by side, as vector registers do


def compiled(function: F) -> F:
    """The function, compiled at its first call and kept on the disk for later processes.

    It must always be called with the same types: several processes that compile several forms of
    one function at the same time would mix them up on the disk.
    """
    options = {"nogil": True, "error_model": "numpy"}
    try:
        found: F = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder to keep it in: compiled by every process anew
        found = numba.njit(**options)(function)
    return found
