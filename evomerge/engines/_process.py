"""Threads, heap and random generators of the process that an engine runs in."""

from __future__ import annotations

import ctypes
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_")


def use_threads(count: int | None) -> None:
    """Let torch compute with this many CPU threads; None leaves the number as it is."""
    if count is not None:
        import torch

        torch.set_num_threads(count)


def keep_freed_memory() -> None:
    """Let this process use freed memory again instead of giving it back, until `give_back`.

    A CPU engine fills gigabytes for every candidate. By default glibc maps large tensors afresh and
    gives them back at once, so that the system clears all of their pages for every candidate:
    hundreds of thousands of page faults. Nothing is done where the user set one of glibc's
    variables, or with another C library.
    """
    mallopt = _c_function("mallopt")
    if mallopt is not None and not any(name in os.environ for name in _VARIABLES):
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)


def give_back() -> None:
    """Give the system all memory that is free."""
    trim = _c_function("malloc_trim")
    if trim is not None:
        trim(0)


def _c_function(name: str) -> ctypes._NamedFuncPointer | None:
    try:
        function: ctypes._NamedFuncPointer = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    return function


class GeneratorStates:
    """The states of the process's random generators when this was made."""

    def __init__(self) -> None:
        import numpy as np
        import torch

        self._python, self._numpy = random.getstate(), np.random.get_state()
        self._torch = torch.get_rng_state()
        started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._cuda = torch.cuda.get_rng_state_all() if started else []

    def restore(self) -> None:
        """Put the generators back into these states."""
        import numpy as np
        import torch

        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)


@contextmanager
def kept_generators() -> Iterator[None]:
    """Leave the process's random generators as they were, whatever is drawn meanwhile."""
    before = GeneratorStates()
    try:
        yield
    finally:
        before.restore()
