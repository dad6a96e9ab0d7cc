"""The version, where every room can read it."""

from __future__ import annotations

__version__ = "0.6.0"


def versions(*libraries: str) -> dict[str, str]:
    """``evomerge`` and each of these libraries, to its version or ``not installed``."""
    from importlib import metadata  # slow to import, and seldom needed

    found = {"evomerge": __version__}
    for name in libraries:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
