"""What a Python file of a user's own imports from its folder, and importing it from there alone.

Python would find such files through `sys.path` and keep them in `sys.modules` by their bare names,
where the ``helpers.py`` of one folder would be taken for that of another.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec, resolve_name, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

_ELSEWHERE = {*sys.stdlib_module_names, "evomerge"}  # never those of a folder


def neighbours(path: Path) -> dict[str, Path]:
    """Module name to file, or to folder for a package without an ``__init__.py``, sorted.

    All that the file, and what it imports, could import from its folder with an ``import``
    statement, wherever that stands. A module of Python's own comes first, and after it one of the
    folder.

    Args:
        path: the user's file; it is not one of them unless they import it.
    """
    found: dict[str, Path] = {}
    unread: list[tuple[str, Path]] = [("", path)]
    while unread:
        importer, file = unread.pop()
        package = importer if file.name == "__init__.py" else importer.rpartition(".")[0]
        for name in _imported(file, package):
            if name.partition(".")[0] in _ELSEWHERE:
                continue
            for module, where in _located(path.parent, name).items():
                if module not in found and where != file:  # it means an installed one of its name
                    found[module] = where
                    if where.is_file():
                        unread.append((module, where))
    return dict(sorted(found.items()))


def _imported(file: Path, package: str) -> Iterator[str]:
    """Absolute names that may be modules, of all import statements of a file.

    Args:
        package: that relative imports start from; empty for none.
    """
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):
        return  # it is told when the file is run
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            with suppress(ImportError):  # relative, and beyond the folder
                base = resolve_name("." * node.level + (node.module or ""), package)
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)


def _located(folder: Path, name: str) -> dict[str, Path]:
    """A module and the packages that it is in, as far as they lie in the folder."""
    found: dict[str, Path] = {}
    bare: dict[str, Path] = {}  # folders, of which something must be found to be packages
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        module, place = ".".join(parts[:count]), folder.joinpath(*parts[:count])
        files = (place / "__init__.py", place.with_name(f"{place.name}.py"))
        file = next((file for file in files if file.is_file()), None)
        if file is not None:
            found |= {**bare, module: file}
            bare = {}
        elif place.is_dir() and (count > 1 or not _is_installed(module)):
            bare[module] = place
        else:
            break
    return found


def _is_installed(name: str) -> bool:
    """Whether Python itself finds a package, which it prefers to a folder without ``__init__``."""
    try:
        spec = find_spec(name)
    except ValueError:  # a module that says nothing of itself
        return False
    return spec is not None and spec.origin is not None


class _Source(SourceFileLoader):
    """Reads the text itself: a file may change twice in the second that bytecode is dated by."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


class Folder(MetaPathFinder):
    """The modules of one folder, which are to be seen `within` it only."""

    def __init__(self) -> None:
        self._known: dict[str, Path] = {}
        self._modules: dict[str, ModuleType] = {}
        self._contents: dict[Path, bytes | None] = {}  # digests

    def know(self, files: Mapping[str, Path]) -> None:
        """Serve these files by these names."""
        self._known |= files
        for file in files.values():
            self._contents.setdefault(file, _content(file))

    @property
    def is_current(self) -> bool:
        """Whether all files are as they were."""
        return all(_content(file) == content for file, content in self._contents.items())

    @contextmanager
    def within(self) -> Iterator[None]:
        """Imports find the folder's modules in place of others of their names."""
        others = {name: sys.modules[name] for name in self._known if name in sys.modules}
        for name, module in others.items():
            if getattr(module, "__file__", None) != str(self._known[name]):
                del sys.modules[name]
        sys.modules.update(self._modules)
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            sys.meta_path.remove(self)
            for name in self._known:
                if name in sys.modules:
                    self._modules[name] = sys.modules.pop(name)
            sys.modules.update(others)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `MetaPathFinder`."""
        file = self._known.get(fullname)
        if file is None:
            return None
        if file.is_dir():
            spec = ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = [str(file)]
            return spec
        return spec_from_file_location(fullname, file, loader=_Source(fullname, str(file)))


def _content(file: Path) -> bytes | None:
    """A digest; None for a folder, and for a file that is gone."""
    return hashlib.sha256(file.read_bytes()).digest() if file.is_file() else None
