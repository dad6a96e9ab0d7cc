"""The command line: parse, one call, print."""

from evomerge.cli.app import main

__all__ = ["main"]
