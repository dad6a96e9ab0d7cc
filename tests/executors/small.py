"""Models of one matrix: a worker opens them in two seconds, where a language model takes eight.

For what is about workers, nodes and drivers, and not about what they evaluate.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import Linear, Module

SIZE = 4
MODULE, SCORER = f"{__file__}:build", f"{__file__}:score"
PACE_SECONDS = 0.5
_TARGETS = {"search": 0.25, "held_out": 0.5}
_NONE: Mapping[str, str] = MappingProxyType({})


def build() -> Linear:
    """What the engine ``torch`` loads candidates into."""
    return Linear(SIZE, SIZE, bias=False)


def score(module: Module, split: str, options: Mapping[str, str] = _NONE) -> Tensor:
    """(SIZE,) the scorer: how near the rows are to a target, from above 0 to 1.

    Args:
        options: ``workers``: a file in which it notes the process that it runs in. ``pace``: while
            there is a file of that name, it takes its time.
    """
    if "workers" in options:
        with Path(options["workers"]).open("a") as log:
            log.write(f"{os.getpid()}\n")
    if "pace" in options and Path(options["pace"]).exists():
        time.sleep(PACE_SECONDS)
    rows = next(module.parameters())
    return 1 / (1 + (rows - _TARGETS[split]).square().sum(1))


def noted(log: Path) -> list[int]:
    """The processes that have scored, one for each time that they did."""
    return [int(line) for line in log.read_text().splitlines()]


def write(folder: Path) -> dict[str, str]:
    """Write a base and two sources; name to folder."""
    made = {}
    for seed, name in enumerate(("base", "left", "right")):
        (folder / name).mkdir(parents=True)
        noise = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(seed))
        file = folder / name / "model.safetensors"
        save_file({"weight": noise}, file, metadata={"format": "pt"})
        made[name] = str(folder / name)
    return made
