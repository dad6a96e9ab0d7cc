"""Loops over NumPy arrays, compiled to machine code; importing them needs no torch.

Numba as used here neither fuses a product with a sum nor reorders operations, so that a loop gives
the same bits on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

F = TypeVar("F", bound=Callable[..., Any])
SIMD_LANES = 64  # partial sums kept side by side, which the compiler turns into vector registers


def compiled(function: F) -> F:
    """The function, compiled at its first call and cached on disk for later processes.

    Always call it with arguments of the same types: processes that compile different forms of one
    function at the same time would mix up their cache files.
    """
    options = {"nogil": True, "error_model": "numpy"}
    try:
        result: F = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no writable folder for a cache: every process compiles it again
        result = numba.njit(**options)(function)
    return result
