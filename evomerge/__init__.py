"""evomerge searches for the best way to merge existing language models.

What a Python user may rely on is listed here, and nothing else is. Each name is imported when it is
first used, so that ``import evomerge`` costs nothing.

>>> import evomerge
>>> evomerge.apply("linear", sources=[[1.0, 2.0], [3.0, 4.0]], weights=[0.25, 0.75])
tensor([2.5000, 3.5000])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from evomerge.version import __version__

if TYPE_CHECKING:
    from evomerge.analysis.evaluate import evaluate
    from evomerge.analysis.run import Run
    from evomerge.api import resume, search
    from evomerge.config.load import load
    from evomerge.errors import (
        CandidateError,
        CheckpointError,
        ConfigError,
        EvomergeError,
        ExportError,
        InputError,
        MachineError,
        OperatorError,
        OutputError,
        PlanError,
        RecipeError,
        ReplayError,
        RunError,
        SearchError,
        SourceChangedError,
        StoreError,
    )
    from evomerge.operators import apply
    from evomerge.recipes import Recipe
    from evomerge.weights.build import build

_HOMES = {
    "Recipe": "evomerge.recipes",
    "Run": "evomerge.analysis.run",
    "apply": "evomerge.operators",
    "build": "evomerge.weights.build",
    "evaluate": "evomerge.analysis.evaluate",
    "load": "evomerge.config.load",
    "resume": "evomerge.api",
}
__all__ = [
    "CandidateError",
    "CheckpointError",
    "ConfigError",
    "EvomergeError",
    "ExportError",
    "InputError",
    "MachineError",
    "OperatorError",
    "OutputError",
    "PlanError",
    "Recipe",
    "RecipeError",
    "ReplayError",
    "Run",
    "RunError",
    "SearchError",
    "SourceChangedError",
    "StoreError",
    "__version__",
    "apply",
    "build",
    "evaluate",
    "load",
    "resume",
    "search",
]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "search":  # the name of a room too: the package itself can be called
        return import_module("evomerge.search")
    found = globals()[name] = getattr(import_module(_HOMES.get(name, "evomerge.errors")), name)
    return found


def __dir__() -> list[str]:
    return list(__all__)
