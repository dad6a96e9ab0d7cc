"""The Transformers engine, with the faults of a machine for certain weights."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from evomerge.engines.transformers import TransformersEngine as _Transformers
from evomerge.errors import SearchError
from evomerge.weights.plan import Plan

KILLED_ONCE, KILLED_ALWAYS, HANGS_ONCE, OUT_OF_MEMORY, SLOW = 1.125, 1.25, 1.375, 1.5, 1.625
UNUSABLE_ONCE = 1.6875


class FaultyEngine(_Transformers):
    """Does to its process what the recipe's weight says.

    Args:
        folder: where it notes every load, one line ``weight pid`` each.
        places: how many can be made; each that is refused is noted.
        refusals: after so many there is place for all.
    """

    def __init__(
        self, *, folder: str, places: int = 1000, refusals: int = 1000, **options: Any
    ) -> None:
        super().__init__(threads=1, **options)
        self.folder = Path(folder)
        full = len(list(self.folder.glob("refused-*"))) < refusals
        if full and not any(self._first(f"made-{place}") for place in range(places)):
            self._first(f"refused-{os.getpid()}")
            raise RuntimeError("no place on this machine")

    def load(self, plan: Plan) -> None:
        """Merge, then fail as told."""
        super().load(plan)
        weight = plan.recipe.parameters["weight"]
        assert isinstance(weight, float)
        with (self.folder / "loads").open("a") as log:
            log.write(f"{weight} {os.getpid()}\n")
        first = self._first(f"seen-{weight}")
        if weight == KILLED_ALWAYS or (weight == KILLED_ONCE and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if weight == HANGS_ONCE and first:
            time.sleep(600)
        if weight == OUT_OF_MEMORY:
            raise MemoryError("no room for the cache")
        if weight == UNUSABLE_ONCE and first:
            raise SearchError("the device has gone")
        if weight == SLOW:
            time.sleep(3)

    def _first(self, name: str) -> bool:
        """Whether no process was here before with that name."""
        try:
            (self.folder / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True
