"""The files that a user's Python file imports from its own folder, and imports that see only these.

Through `sys.path` Python would keep them in `sys.modules` by their bare names, where one folder's
``helpers.py`` would be taken for another's.
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


def user_imports(path: Path) -> dict[str, Path]:
    """Module name to file, sorted: what a file imports from its folder, directly or indirectly.

    Every ``import`` statement counts, wherever it stands. Modules of Python's own come before
    those of the folder, and those before installed ones.

    Args:
        path: the user's file; it is not in the result unless another one imports it.
    """
    files: dict[str, Path] = {}
    unread: list[tuple[str, Path]] = [("", path)]
    while unread:
        importer, file = unread.pop()
        package = importer if file.name == "__init__.py" else importer.rpartition(".")[0]
        for name in _imported(file, package):
            for module, imported in _located(path.parent, name).items():
                if module not in files and imported != file:  # it means an installed one instead
                    files[module] = imported
                    unread.append((module, imported))
    return dict(sorted(files.items()))


def _imported(file: Path, package: str) -> Iterator[str]:
    """Absolute names that may be modules, of all import statements of a file in a package."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):
        return  # reported when the file is run
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            with suppress(ImportError):  # relative, and beyond the folder
                base = resolve_name("." * node.level + (node.module or ""), package)
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)


def _located(folder: Path, name: str) -> dict[str, Path]:
    """The files of a module and of the packages around it, as far as they are in the folder."""
    parts = name.split(".")
    if parts[0] in _ELSEWHERE:
        return {}
    files: dict[str, Path] = {}
    for count in range(1, len(parts) + 1):
        place = folder.joinpath(*parts[:count])
        for file in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if file.is_file():
                files.setdefault(".".join(parts[:count]), file)
    # an installed package comes before a folder without an __init__.py
    return {} if files and parts[0] not in files and _is_installed(parts[0]) else files


def _is_installed(name: str) -> bool:
    try:
        spec = find_spec(name)
    except ValueError:  # a module without a spec
        return False
    return spec is not None and spec.origin is not None


class _Source(SourceFileLoader):
    """Always compiles the source: cached bytecode misses changes within the same second."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


class UserFolder(MetaPathFinder):
    """The modules of one folder, which imports find `within` it only."""

    def __init__(self) -> None:
        self._files: dict[str, Path] = {}
        self._modules: dict[str, ModuleType] = {}
        self._digests: dict[Path, bytes] = {}

    def add(self, files: Mapping[str, Path]) -> None:
        """Serve these files by these names."""
        self._files |= files
        for file in files.values():
            self._digests.setdefault(file, _digest(file))

    @property
    def is_current(self) -> bool:
        """Whether all files are as they were when they were added."""
        return all(_digest(file) == digest for file, digest in self._digests.items())

    @contextmanager
    def within(self) -> Iterator[None]:
        """A context in which imports find the folder's modules before others of the same name."""
        if self in sys.meta_path:
            yield
            return
        others = self._hidden()
        sys.modules.update(self._modules)
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            sys.meta_path.remove(self)
            self._modules = self._hidden()
            sys.modules.update(others)

    def _hidden(self) -> dict[str, ModuleType]:
        """Remove from ``sys.modules``, and return, all modules under the folder's names."""
        tops = {name.partition(".")[0] for name in self._files}
        return {n: sys.modules.pop(n) for n in list(sys.modules) if n.partition(".")[0] in tops}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `MetaPathFinder`."""
        if file := self._files.get(fullname):
            return spec_from_file_location(fullname, file, loader=_Source(fullname, str(file)))
        if any(name.startswith(f"{fullname}.") for name in self._files):
            return ModuleSpec(fullname, None, is_package=True)  # a folder without an __init__.py
        return None


def _digest(file: Path) -> bytes:
    """The sha256 of a file's content; empty for a file that is gone."""
    return hashlib.sha256(file.read_bytes()).digest() if file.is_file() else b""
