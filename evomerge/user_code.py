"""``path.py:function``: a function in a Python file of the user's own.

Such a file runs because the user's own YAML names it; nothing else may name one.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

from evomerge.errors import ConfigError
from evomerge.registry import did_you_mean


class CodeReference(NamedTuple):
    """A file, and what a function in it is called."""

    path: Path
    function: str


def parse(reference: str) -> CodeReference:
    """File and function of a reference.

    Raises:
        ConfigError: not of the form, or there is no such file.
    """
    path, colon, function = reference.rpartition(":")
    if not colon or not path.endswith(".py") or not function.isidentifier():
        raise ConfigError(f"expected path.py:function, got {reference!r}")
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such file")
    return CodeReference(Path(path), function)


def anchor_code(reference: str, folder: Path) -> str:
    """The reference with its file made absolute, seen from ``folder``."""
    path, colon, function = reference.rpartition(":")
    return f"{(folder / Path(path).expanduser()).resolve()}:{function}" if colon else reference


def content_digest(reference: str) -> str:
    """sha256 of the function's name and of the file that it is in, wherever that lies.

    Raises:
        ConfigError: as `parse`.
    """
    path, function = parse(reference)
    return hashlib.sha256(function.encode() + b"\0" + path.read_bytes()).hexdigest()


def load_function(reference: str, *arguments: Any, **keywords: Any) -> Callable[..., Any]:
    """The function, its file having run once in this process.

    Args:
        arguments, keywords: what it will be called with, as far as their number and names go.

    Raises:
        ConfigError: no such file or function, the file cannot be run, or the function takes other
            arguments.
    """
    path, name = parse(reference)
    module = _module(path.resolve())
    found = getattr(module, name, None)
    if not callable(found):
        known = [n for n, item in vars(module).items() if inspect.isfunction(item) and n[0] != "_"]
        raise ConfigError(f"{path}: has no function {name!r}.{did_you_mean(name, known)}")
    try:
        inspect.signature(found).bind(*arguments, **keywords)
    except TypeError as error:
        shown = ", ".join([*map(str, arguments), *(f"{key}=..." for key in keywords)])
        raise ConfigError(f"{path}: {name} must take ({shown}): {error}") from None
    loaded: Callable[..., Any] = found
    return loaded


class _Source(SourceFileLoader):
    """Reads the text itself: a file may change twice in the second that bytecode is dated by."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _module(path: Path) -> ModuleType:
    digest = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()
    name = f"_evomerge_user_code_{path.stem}_{digest[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_loader(name, _Source(name, str(path)))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look themselves up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ConfigError(f"{path}: cannot be run: {type(error).__name__}: {error}") from error
    return module
