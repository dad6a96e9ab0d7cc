"""mergekit, the peer of several benchmarks, in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import venv
from pathlib import Path
from typing import Any

MERGEKIT = ["torch==2.13.0", "mergekit==0.1.5"]

# With the options that mergekit-evolve gives, on a CPU.
_SERVE = """
import json, sys, time
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

options = MergeOptions(
    out_shard_size=10**12, quiet=True, copy_tokenizer=True, safe_serialization=True
)
for line in sys.stdin:
    config, out = json.loads(line)
    started = time.perf_counter(), time.process_time()
    run_merge(MergeConfiguration.model_validate(config), out_path=out, options=options)
    taken = time.perf_counter() - started[0], time.process_time() - started[1]
    print("\\n" + json.dumps(taken), flush=True)
"""


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


class Mergekit:
    """One process that merges one configuration after another, as mergekit-evolve does.

    Args:
        folder: of its environment.
        environment: variables of the process.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        command = [str(install(folder) / "python"), "-c", _SERVE]
        self._process = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def merge(self, config: dict[str, Any], out: Path) -> tuple[float, float]:
        """Wall and CPU seconds of a merge to a folder, imports not among them."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([config, str(out)]), file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("["):
                wall, cpu = json.loads(line)
                return wall, cpu
        raise SystemExit("mergekit ended early")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
