"""What must be mended in a process before vLLM starts in it; imported for that."""

from __future__ import annotations

from typing import Any

from llvmlite.binding import ffi


def _make_the_library_behind_numba_answer_truly() -> None:
    """It gives a function for every name, ``__dict__`` too.

    vLLM reads the ``__dict__`` of every object of every module, and stumbles over that.
    """
    kind: Any = type(ffi.lib)
    function = kind.__getattr__

    def of_the_library(self: Any, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return function(self, name)

    kind.__getattr__ = of_the_library


_make_the_library_behind_numba_answer_truly()
