"""What a search is made of, and where it stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from evomerge.executors import Executor
from evomerge.optimizers import Optimizer
from evomerge.spaces import Ground, Space
from evomerge.store import RunRecord
from evomerge.worker import WorkerSetup


@dataclass(frozen=True, slots=True)
class Budget:
    """When a search ends, whichever comes first.

    Attributes:
        evaluations: candidates asked of the optimizer; baselines come on top.
        seconds: of search time, summed over all sittings.
        gpu_hours: search time in hours times the GPUs that open or opening workers hold; of earlier
            sittings, as if all workers had been open.
    """

    evaluations: int | None = None
    seconds: float | None = None
    gpu_hours: float | None = None


@dataclass(frozen=True, slots=True)
class Search:
    """A validated search, its parts composed by `evomerge.config`.

    Attributes:
        ground: what all recipes have in common.
        new_optimizer, new_executor: fresh ones, unstarted.
        setup: what workers are started with.
        stop_after_failures: give up when this many first candidates all fail.
        champions: how many of the best are scored on held-out examples.
        record: what the store keeps of the search itself.
    """

    ground: Ground
    space: Space
    new_optimizer: Callable[[], Optimizer]
    new_executor: Callable[[], Executor]
    setup: WorkerSetup
    budget: Budget
    stop_after_failures: int
    champions: int
    record: RunRecord


class Progress(NamedTuple):
    """Where a search stands.

    Attributes:
        done, total: baselines and candidates that are finished, and that there will be; None
            when only time limits them.
        best: highest fitness of a searched candidate so far.
        elapsed_seconds: of search time, over all sittings.
        stage: ``baselines``, ``search`` or ``held-out``.
    """

    done: int
    total: int | None
    best: float | None
    elapsed_seconds: float
    stage: str


Observer = Callable[[Progress], None]
