"""Merge operators: pure maths from tensors to one tensor, one per file.

The file's name is the operator's public name; its keyword arguments are its YAML keys.

>>> from evomerge.operators import apply
>>> apply("task_arithmetic", base=[1.0, 2.0], sources=[[2.0, 2.0]], weights=[0.5])
tensor([1.5000, 2.0000])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from evomerge.operators._describe import Description, Setting, describe, modifiers
from evomerge.operators._modifiers import Bound, Floats
from evomerge.operators._operator import Operator, get, operator
from evomerge.operators._outline import outline

if TYPE_CHECKING:
    from evomerge.operators._apply import apply
    from evomerge.operators._combine import Settings, combine
else:
    _LAZY = {"apply": "_apply", "Settings": "_combine", "combine": "_combine"}

    def __getattr__(name: str) -> Any:
        # these work on tensors: torch takes a second to import, so at first use (PEP 562)
        if name in _LAZY:
            value = globals()[name] = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
            return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Bound",
    "Description",
    "Floats",
    "Operator",
    "Setting",
    "Settings",
    "apply",
    "combine",
    "describe",
    "get",
    "modifiers",
    "operator",
    "outline",
]
