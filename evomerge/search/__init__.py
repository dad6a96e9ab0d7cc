"""The search loop: what is searched, how it goes on, and which candidates it prefers.

The package can be called: ``evomerge.search("search.yaml")`` is `evomerge.api.search`.
"""

from __future__ import annotations

import inspect
import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        # by name: the rooms that a whole search is put together from lie above this one
        return import_module("evomerge.api").search(*args, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(import_module("evomerge.api").search)

    def __reduce__(self) -> Any:
        return import_module, (self.__name__,)


sys.modules[__name__].__class__ = _CallableModule
