"""Room for libraries: a command that cannot have it ends before it imports them.

Where address space runs out in the middle, C and C++ abort, OpenBLAS tries again for ever, and
CPython raises whatever it was about. None of that can be caught, so it is not tried.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NamedTuple, Self

from evomerge.faults import address_space_limit

_MEBIBYTE = 1 << 20
# Library: address space of a process that works with it, in MiB, what each thread of OpenBLAS adds,
# and each of OpenMP: buffers and stacks. Measured on small models, with some to spare.
_TAKES = {
    "numpy": (128, 48, 0),
    "torch": (1200, 82, 78),
    "transformers": (1700, 82, 78),
    "lm_eval": (3200, 82, 78),
    "vllm": (5500, 82, 78),
}
_MOST_OF_OPENBLAS = 64  # threads, in the builds of NumPy and SciPy
_OPENBLAS, _OPENMP = "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"


def keep_room() -> None:
    """Refuse imports for which ``ulimit -v`` leaves no room, from now on."""
    if (limit := address_space_limit()) is not None:
        sys.meta_path.insert(0, _Room(limit))


class _Room:
    """Asked first, it has the others find a module, and lets none be loaded that would not fit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffers_taken = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders find, with a loader that only raises; None where there is room."""
        if name not in _TAKES:
            return None
        if self._limit < _needed(name, _Threads.here()):
            return self._refused(name, path, target)
        if name == "torch" and not self._buffers_taken:
            self._buffers_taken = True
            _take_buffers()
        return None

    def _refused(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next(filter(None, found), None)
        if spec is not None:  # who only asks whether it is installed may know
            spec.loader = _NoRoom(_sentence(name, self._limit))
        return spec


class _NoRoom(Loader):
    """Loads no module: it raises.

    Raises:
        MemoryError: says how much room it takes.
    """

    def __init__(self, sentence: str) -> None:
        self._sentence = sentence

    def exec_module(self, module: ModuleType) -> None:
        raise MemoryError(self._sentence)


class _Threads(NamedTuple):
    """How many threads libraries start."""

    openblas: int
    openmp: int

    @classmethod
    def here(cls) -> Self:
        """As many as there are cores, or as the environment sets; each may set its own."""
        openmp = min(_cores(), _set_by(_OPENMP) or sys.maxsize)
        openblas = min(_cores(), _set_by(_OPENBLAS) or openmp, _MOST_OF_OPENBLAS)
        return cls(openblas, openmp)


def _needed(name: str, threads: _Threads) -> int:
    """Bytes of address space."""
    fixed, openblas, openmp = _TAKES[name]
    return (fixed + openblas * threads.openblas + openmp * threads.openmp) * _MEBIBYTE


def _sentence(name: str, limit: int) -> str:
    """That a library has no room; and with how many threads it would have, if with any number."""
    needed, least = _needed(name, _Threads.here()), _needed(name, _Threads(1, 1))
    sentence = (
        f"a command that imports {name} takes up to {needed / 1e9:.1f} GB of address "
        f"space, of which `ulimit -v` allows {limit / 1e9:.1f} GB"
    )
    if limit < least:
        return sentence
    names = [_OPENMP, *([_OPENBLAS] if _set_by(_OPENBLAS) else [])]
    settings = " ".join(f"{name}=1" for name in names)
    return f"{sentence}; set {settings}, and it takes up to {least / 1e9:.1f} GB"


def _set_by(variable: str) -> int:
    """A number of threads from the environment, the first of a list; 0 where none is set."""
    found = re.match(r"\s*\+?(\d+)", os.environ.get(variable, ""))
    return int(found[1]) if found else 0


def _cores() -> int:
    """How many cores this process may use."""
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
