"""The torch engine, with the faults of a machine for certain weights."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.engines.torch import TorchEngine as _Torch
from evomerge.errors import SearchError
from evomerge.weights.plan import Plan

KILLED_ALWAYS, OUT_OF_MEMORY, UNUSABLE_ONCE = 1.25, 1.5, 1.6875
DISK_FULL_ONCE, DISK_FULL = 1.75, 1.8125
KILLED_ONCE, HANGS_ONCE = {1.125, 1.1875}, {1.375, 1.4375}
TAKES_SECONDS = {0.375: 0.1, 1.625: 1.0}


class FaultyEngine(_Torch):
    """Does to its process what the recipe's weight says.

    Args:
        folder: where it notes every load, one line ``weight pid`` each.
        places: how many can be made; each that is refused is noted.
        refusals: after so many there is place for all.
        options: of the torch engine.
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

    @classmethod
    def files(cls, options: Mapping[str, Any]) -> Sequence[Path]:
        """One more where there is a ``labels.json`` in the folder."""
        return [*super().files(options), *Path(options["folder"]).glob("labels.json")]

    def load_at(self, slot: int, plan: Plan) -> None:
        """Merge, then fail as the options say."""
        super().load_at(slot, plan)
        weight = plan.recipe.parameters["weight"]
        assert isinstance(weight, float)
        with (self.folder / "loads").open("a") as log:
            log.write(f"{weight} {os.getpid()}\n")
        first = self._first(f"seen-{weight}")
        if weight == KILLED_ALWAYS or (weight in KILLED_ONCE and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if weight in HANGS_ONCE and first:
            time.sleep(600)
        if weight == OUT_OF_MEMORY:
            raise MemoryError("no room for the cache")
        if weight == UNUSABLE_ONCE and first:
            raise SearchError("the device has gone")
        if weight == DISK_FULL or (weight == DISK_FULL_ONCE and first):
            Path("/dev/full").write_text("x")
        time.sleep(TAKES_SECONDS.get(weight, 0.0))

    def _first(self, name: str) -> bool:
        """Whether no process was here before with that name."""
        try:
            (self.folder / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True
