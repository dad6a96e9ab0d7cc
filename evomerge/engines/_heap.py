"""The C library's heap, which a CPU engine fills with gigabytes for every candidate.

By default large tensors are mapped anew and given back at once, so that the system clears all of
their pages for every candidate: hundreds of thousands of page faults.
"""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_")


def keep_freed_memory() -> None:
    """Let this process use freed memory again instead of giving it back, until `give_back`.

    Nothing is done where the person set one of glibc's variables, or the library is another.
    """
    mallopt = _function("mallopt")
    if mallopt is not None and not any(name in os.environ for name in _VARIABLES):
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)


def give_back() -> None:
    """Give the system all memory that is free."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def _function(name: str) -> ctypes._NamedFuncPointer | None:
    try:
        found: ctypes._NamedFuncPointer = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    return found
