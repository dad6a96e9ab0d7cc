"""Merge operators: pure maths from tensors to one tensor, one per file.

The file's name is the operator's public name; its keyword arguments are its YAML keys.

>>> from evomerge.operators import apply
>>> apply("task_arithmetic", base=[1.0, 2.0], sources=[[2.0, 2.0]], weights=[0.5])
tensor([1.5000, 2.0000])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from evomerge.operators._bound import Bound
from evomerge.operators._describe import Description, Setting, describe, modifiers
from evomerge.operators._operator import Operator, get, operator
from evomerge.operators._outline import outline

# What works on tensors takes a second to import, and is looked up at its first use (PEP 562).
_ON_TENSORS = {
    "_apply": ("Settings", "apply", "combine"),
    "_lanes": ("in_lane", "lanes"),
    "_measures": ("products",),
    "_normals": ("normals",),
    "_passes": ("all_finite", "rounded"),
    "_pieces": ("piecewise_sum",),
    "_prefix": ("prefix_grams",),
    "_stack": ("TILE", "NotFiniteError", "Rows", "Stack", "stretch"),
    "_steps": ("offspring", "replay"),
}
if TYPE_CHECKING:
    from evomerge.operators._apply import Settings, apply, combine
    from evomerge.operators._lanes import in_lane, lanes
    from evomerge.operators._measures import products
    from evomerge.operators._normals import normals
    from evomerge.operators._passes import all_finite, rounded
    from evomerge.operators._pieces import piecewise_sum
    from evomerge.operators._prefix import prefix_grams
    from evomerge.operators._stack import TILE, NotFiniteError, Rows, Stack, stretch
    from evomerge.operators._steps import offspring, replay
else:

    def __getattr__(name: str) -> Any:
        for file, names in _ON_TENSORS.items():
            if name in names:
                found = globals()[name] = getattr(import_module(f"{__name__}.{file}"), name)
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "TILE",
    "Bound",
    "Description",
    "NotFiniteError",
    "Operator",
    "Rows",
    "Setting",
    "Settings",
    "Stack",
    "all_finite",
    "apply",
    "combine",
    "describe",
    "get",
    "in_lane",
    "lanes",
    "modifiers",
    "normals",
    "offspring",
    "operator",
    "outline",
    "piecewise_sum",
    "prefix_grams",
    "products",
    "replay",
    "rounded",
    "stretch",
]
