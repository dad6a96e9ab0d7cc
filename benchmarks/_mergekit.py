"""mergekit, the peer of two benchmarks, in an environment of its own."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

MERGEKIT = ["torch==2.13.0", "mergekit==0.1.5"]


def install(folder: Path) -> Path:
    """Make the environment, unless it is there; its folder of programs."""
    programs = folder / "bin"
    if not (programs / "mergekit-yaml").exists():
        venv.create(folder, with_pip=True)
        # one after the other: mergekit shall find the torch that is there
        for package in MERGEKIT:
            command = [str(programs / "pip"), "install", "--quiet", package]
            subprocess.run(command, check=True)  # noqa: S603
    return programs
