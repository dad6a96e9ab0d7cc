"""``path.py:function``: a function in a Python file of the user's own.

Such a file runs because the user's own YAML names it; nothing else may name one.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from evomerge.errors import ConfigError, shown
from evomerge.files import absolute
from evomerge.plugins.registry import did_you_mean
from evomerge.plugins.user_imports import UserFolder, user_imports


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
        raise ConfigError(f"expected path.py:function, got {shown(reference)}")
    file = absolute(path, Path.cwd())
    if not file.is_file():
        raise ConfigError(f"{path}: no such file")
    return CodeReference(file, function)


def anchor_code(reference: str, folder: Path) -> str:
    """The reference with its file made absolute, seen from ``folder``."""
    path, colon, function = reference.rpartition(":")
    return f"{absolute(path, folder)}:{function}" if colon else reference


def content_digest(reference: str) -> str:
    """sha256 of the function's name, its file and what that imports from its folder.

    It does not depend on where the folder lies.

    Raises:
        ConfigError: as `parse`.
    """
    path, function = parse(reference)
    digest = hashlib.sha256(function.encode() + b"\0" + path.read_bytes())
    for name, file in user_imports(path).items():
        digest.update(b"\0" + name.encode() + b"\0")
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def code_files(reference: str) -> tuple[Path, ...]:
    """The function's file, and what that imports from its folder.

    Raises:
        ConfigError: as `parse`.
    """
    path = parse(reference).path
    return path, *user_imports(path).values()


def load_function(reference: str, *arguments: Any, **keywords: Any) -> Callable[..., Any]:
    """The function, its file having run once in this process.

    What it imports from its folder is found there, also when it is called.

    Args:
        arguments, keywords: what it will be called with, as far as their number and names go.

    Raises:
        ConfigError: no such file or function, the file cannot be run, or the function takes other
            arguments.
    """
    path, name = parse(reference)
    folder, module = _module(path)
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, item in vars(module).items() if inspect.isfunction(item) and n[0] != "_"]
        raise ConfigError(f"{path}: has no function {shown(name)}.{did_you_mean(name, known)}")
    try:
        inspect.signature(function).bind(*arguments, **keywords)
    except TypeError as error:
        takes = ", ".join([*map(str, arguments), *(f"{key}=..." for key in keywords)])
        raise ConfigError(f"{path}: {name} must take ({takes}): {error}") from None

    @wraps(function)
    def called(*arguments: Any, **keywords: Any) -> Any:
        with folder.within():
            return function(*arguments, **keywords)

    return called


_folders: dict[Path, UserFolder] = {}  # functions in files of one folder share its modules


def _module(path: Path) -> tuple[UserFolder, ModuleType]:
    """The file as a module, and the folder that it was run in."""
    folder = _folders.get(path.parent)
    if folder is None or not folder.is_current:
        folder = _folders[path.parent] = UserFolder()
    name = _name(path)
    folder.add({**user_imports(path), name: path})
    try:
        with folder.within():
            return folder, importlib.import_module(name)
    except (Exception, SystemExit) as error:
        _folders.pop(path.parent, None)
        raise ConfigError(f"{path}: cannot be run: {type(error).__name__}: {error}") from error


def _name(path: Path) -> str:
    """The module name for a file: its own, as other files in its folder import it, if free."""
    name = path.stem
    if name.isidentifier() and name not in sys.modules:
        with suppress(ImportError, ValueError):
            other = importlib.util.find_spec(name)
            if other is None or other.origin == str(path):
                return name
    return f"_evomerge_user_code_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
