"""Workers of uneven speed for the loop, and what it leaves in a run."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge.executors import Executor, TellOrder
from evomerge.search.run import start
from evomerge.search.spec import Progress, Search
from evomerge.store import Store
from evomerge.types import Evaluation, Job
from evomerge.worker import Worker, WorkerSetup


class Stragglers(Executor):
    """Really evaluates, in an order in which workers of uneven speed could finish."""

    def __init__(
        self, workers: int, tell_order: TellOrder, seed: int = 0, lookahead: int = 8
    ) -> None:
        self.capacity, self.tell_order, self.lookahead = workers, tell_order, lookahead
        self.most = 0
        self.held: list[float] = [0.0]  # GPUs, after each result; the last stays
        self.evaluated: Counter[str] = Counter()
        self._luck = random.Random(seed)
        self._queue: list[Job] = []
        self._worker: Worker | None = None

    @property
    def gpus(self) -> float:
        return self.held[min(self.evaluated.total(), len(self.held) - 1)]

    def planned_gpus(self, setup: WorkerSetup) -> float:
        return max(self.held)

    @property
    def was_started(self) -> bool:
        return self._worker is not None

    def start(self, setup: WorkerSetup) -> None:
        self._worker = Worker(setup)

    def submit(self, job: Job) -> None:
        self._queue.append(job)

    def result(self) -> tuple[Job, Evaluation]:
        assert self._worker is not None
        at_work = min(len(self._queue), self.capacity)
        self.most = max(self.most, at_work)
        job = self._queue.pop(self._luck.randrange(at_work))
        self.evaluated[f"{job.split} {job.recipe.digest}"] += 1
        return job, self._worker.evaluate(job)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()


def run_with(executor: Executor, search: Search, folder: Path) -> list[tuple[Any, ...]]:
    start(replace(search, new_executor=lambda: executor), folder, lambda progress: None)
    return leaderboard(folder)


def leaderboard(folder: Path) -> list[tuple[Any, ...]]:
    """Every candidate with its genes and scores, to the last digit."""
    with sqlite3.connect(Store.path(folder)) as base:
        rows: list[tuple[Any, ...]] = base.execute(
            "SELECT number, kind, genes, recipe_digest, value, held_out_value FROM leaderboard"
        ).fetchall()
    return rows


def history(folder: Path) -> list[tuple[str, int]]:
    with sqlite3.connect(Store.path(folder)) as base:
        events: list[tuple[str, int]] = base.execute(
            "SELECT kind, candidate FROM events ORDER BY sequence"
        ).fetchall()
    return events


def until(limit: int) -> Callable[[Progress], None]:
    def observe(progress: Progress) -> None:
        if progress.done >= limit and progress.stage != "held-out":
            raise KeyboardInterrupt

    return observe
