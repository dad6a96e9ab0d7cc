"""A real engine that also fails as machines do, when a recipe's weight asks for it.

``install`` is what a plug-in does: it appends a folder of engines to the package's path. Ray calls
it in every worker process (``worker_process_setup_hook``).
"""

from __future__ import annotations

from pathlib import Path

PLUGINS = Path(__file__).parent / "plugins"


def install() -> None:
    """Make the engine ``faulty`` known to this process."""
    import evomerge.engines

    if str(PLUGINS) not in evomerge.engines.__path__:
        evomerge.engines.__path__.append(str(PLUGINS))
