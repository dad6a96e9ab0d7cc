"""Room for libraries: a command that cannot have it ends before it imports them.

Where address space runs out in the middle, C and C++ abort, OpenBLAS tries again for ever, and
CPython raises whatever it was about. None of that can be caught, so it is not tried.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import ModuleType

from evomerge.faults import address_space_limit

_MEBIBYTE = 1 << 20
# Library: address space of a process that works with it, in MiB, and what each CPU core adds: the
# buffers and the stacks of threads. Measured on small models, with some to spare.
_TAKES = {
    "numpy": (128, 48),
    "torch": (1200, 160),
    "transformers": (1700, 160),
    "lm_eval": (3200, 160),
    "vllm": (5500, 160),
}


def keep_room() -> None:
    """Refuse imports for which ``ulimit -v`` leaves no room, from now on."""
    if (limit := address_space_limit()) is not None:
        sys.meta_path.insert(0, _Room(limit))


class _Room:
    """Finds no module: it is asked first, and raises where a library would not fit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffers_taken = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> None:
        """Let the other finders look for a module.

        Raises:
            MemoryError: says how much room it takes.
        """
        if name not in _TAKES:
            return
        fixed, each = _TAKES[name]
        needed = (fixed + each * _cores()) * _MEBIBYTE
        if self._limit < needed:
            raise MemoryError(
                f"a command that imports {name} takes up to {needed / 1e9:.1f} GB of address "
                f"space, of which `ulimit -v` allows {self._limit / 1e9:.1f} GB"
            )
        if name == "torch" and not self._buffers_taken:
            self._buffers_taken = True
            _take_buffers()


def _cores() -> int:
    """How many cores this process may use; OpenBLAS starts a thread on each."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _take_buffers() -> None:
    """Have OpenBLAS take its buffers, which it keeps, while there is room.

    NumPy and SciPy have one each.
    """
    import numpy as np
    from scipy.linalg import blas

    square = np.ones((256, 256))
    square @ square
    blas.dgemm(1.0, square, square)
