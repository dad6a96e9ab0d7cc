"""The command line: parse, one call, print."""

from __future__ import annotations

import sys

from evomerge.cli._stopping import stopping

__all__ = ["main"]


def main() -> None:
    """Run the command that this process was started with."""
    stopping.listen()  # before imports that take a second
    sys.unraisablehook = stopping.hear_again
    try:
        from evomerge.cli.app import main as run
    except KeyboardInterrupt:
        stopping.end()
    run()
