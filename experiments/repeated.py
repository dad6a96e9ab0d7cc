"""The same searches with several seeds: run folders, means over the seeds, progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evomerge import api
from evomerge.analysis.run import Run
from evomerge.search.spec import Progress
from evomerge.store import Store


def complete(search: Path, folder: Path, overrides: Sequence[str] = ()) -> Run:
    """What came out of one run, which is first brought to its end where it is not there yet.

    Args:
        search: its YAML.
        folder: of the run; gone on with where it was stopped.
        overrides: as behind ``--set``, of a new run.
    """
    talk = _Talk(folder.name)
    if not Store.exists(folder):
        return api.search(search, run=folder, overrides=overrides, progress=talk)
    run = Run.open(folder)
    return run if run.record.finished_utc else api.resume(folder, progress=talk)


def spread(fractions: Sequence[float]) -> str:
    """Mean and standard error over the seeds, in per cent."""
    error = np.std(fractions, ddof=1) / np.sqrt(len(fractions)) if len(fractions) > 1 else np.nan
    return f"{100 * np.mean(fractions):.1f} ± {100 * error:.1f}"


class _Talk:
    """Prints every now and then how far a run is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._last_printed = ""

    def __call__(self, now: Progress) -> None:
        text = f"{self.name}: {now.stage}, {now.done // 40 * 40} of {now.total}"
        if text != self._last_printed:
            print(text, f"{now.elapsed_seconds:.0f} s", file=sys.stderr, flush=True)
        self._last_printed = text
