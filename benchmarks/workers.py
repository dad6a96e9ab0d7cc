"""How busy many workers are kept, and what the driver costs per candidate.

The loop, the optimizers and the store are the real ones; only evaluations are simulated: they take
lognormal times on a clock of their own, to which the real seconds of the driver are added.
"""

from __future__ import annotations

import argparse
import heapq
import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from evomerge.config import load_resolved
from evomerge.executors import Executor, TellOrder
from evomerge.nouns import Evaluation, Job, TaskScores
from evomerge.runs import start
from evomerge.search import Search
from evomerge.worker import WorkerSetup

ROOT = Path(__file__).parents[1]
ZOO = ROOT / "experiments" / "zoo"
CREWS = (1, 8, 64, 256)
EXAMPLES = 200
BASELINES = 6  # base, three sources, average, textbook
SPREAD = 1.0  # of the logarithm: one evaluation in a hundred takes ten times the median


class SimulatedCrew(Executor):
    """Workers whose evaluations take lognormal times on a clock of their own.

    Args:
        workers: how many.
        median_seconds: of an evaluation.

    Attributes:
        driver_seconds: real ones spent outside this class, before each result.
        starts: simulated, when each evaluation began; and `lengths`, how long it took.
    """

    def __init__(self, workers: int, median_seconds: float, tell_order: TellOrder) -> None:
        self.capacity, self.tell_order, self.lookahead = workers, tell_order, 2 * workers
        self.driver_seconds: list[float] = []
        self.starts: list[float] = []
        self.lengths: list[float] = []
        self._median = median_seconds
        self._rng = np.random.default_rng(0)
        self._queue: deque[Job] = deque()
        self._at_work: list[tuple[float, int, Job]] = []
        self._now, self._left = 0.0, 0.0

    def start(self, setup: WorkerSetup) -> None:
        """Nothing to open: from here on the driver's time counts."""
        self._left = time.perf_counter()

    def submit(self, job: Job) -> None:
        """See `Executor.submit`."""
        self._queue.append(job)
        self._assign(self._now + time.perf_counter() - self._left)

    def result(self) -> tuple[Job, Evaluation]:
        """See `Executor.result`."""
        spent = time.perf_counter() - self._left
        self.driver_seconds.append(spent)
        end, _, job = heapq.heappop(self._at_work)
        self._now = max(self._now + spent, end)  # it may have had to wait for the driver
        self._assign(self._now)
        self._left = time.perf_counter()
        return job, _evaluation(job)

    def close(self) -> None:
        """Nothing to close."""

    def _assign(self, now: float) -> None:
        while self._queue and len(self._at_work) < self.capacity:
            job, seconds = (
                self._queue.popleft(),
                self._median * float(self._rng.lognormal(0, SPREAD)),
            )
            heapq.heappush(self._at_work, (now + seconds, job.number, job))
            self.starts.append(now)
            self.lengths.append(seconds)

    def utilisation(self, first: int, last: int) -> float:
        """Share of worker time at work, from the start of one evaluation to that of another.

        Args:
            first, last: in the order of their starts.
        """
        begin, end = self.starts[first], self.starts[last]
        busy = sum(
            max(0.0, min(start + length, end) - max(start, begin))
            for start, length in zip(self.starts, self.lengths, strict=True)
        )
        return busy / (self.capacity * (end - begin))


def _evaluation(job: Job) -> Evaluation:
    """Scores of a made-up model: noise that depends on the recipe alone."""
    rng = np.random.default_rng(int(job.recipe.digest[:8], 16))
    tasks = {}
    if job.split == "search":
        scores = tuple(float(right) for right in rng.random(EXAMPLES) < rng.random())
        tasks["arithmetic"] = TaskScores(sum(scores) / EXAMPLES, tuple(range(EXAMPLES)), scores)
    return Evaluation("done", tasks, merge_seconds=1.0, score_seconds=1.0)


def _search(optimizer: dict[str, Any], evaluations: int) -> Search:
    """A search of 18 genes over the zoo."""
    content = {
        "name": "workers",
        "base": str(ZOO / "base"),
        "sources": {name: str(ZOO / name) for name in ("arithmetic", "strings", "kanji")},
        "space": {
            "kind": "parameter",
            "operator": "task_arithmetic",
            "granularity": {"layers": 2, "roles": ["attention", "mlp", "other"]},
            "parameters": {"weight": {"low": -0.5, "high": 1.5}},
        },
        "fitness": {
            "include_path": str(ROOT / "fitness" / "zoo_skills"),
            "tasks": {"arithmetic": {"task": "zoo_arithmetic"}},
        },
        "optimizer": optimizer,
        "budget": {"evaluations": evaluations},
    }
    return load_resolved(yaml.safe_dump(content), "workers").search


def _run(search: Search, crew: SimulatedCrew) -> None:
    with TemporaryDirectory() as folder:
        made = replace(search, new_executor=lambda: crew)
        start(made, Path(folder) / "run", lambda progress: None)


def _utilisations(median_seconds: float, rounds: int) -> Iterator[str]:
    cmaes = {"name": "cmaes", "population_size": 64}
    for label, optimizer, order in (
        ("cmaes, 64 a generation, finished", cmaes, "finished"),
        ("cmaes, 64 a generation, asked", cmaes, "asked"),
        ("random (never waits), finished", {"name": "random"}, "finished"),
    ):
        for workers in CREWS:
            evaluations = rounds * max(64, workers)
            search = _search(optimizer, evaluations)
            crew = SimulatedCrew(workers, median_seconds, order)  # type: ignore[arg-type]
            _run(search, crew)
            busy = crew.utilisation(BASELINES, BASELINES + evaluations - 1)
            driver = float(np.median(crew.driver_seconds))
            yield (
                f"{label:<34} {workers:>4} workers  {busy:6.1%} busy  "
                f"driver {driver * 1000:5.2f} ms per candidate"
            )


def _overhead(candidates: int) -> str:
    """Driver seconds per candidate at the beginning and at the end of one long run."""
    crew = SimulatedCrew(64, 60, "finished")
    _run(_search({"name": "cmaes", "population_size": 64}, candidates), crew)
    first, last = crew.driver_seconds[100:1100], crew.driver_seconds[-1100:-100]
    return (
        f"driver, median (mean) of 1000: {np.median(first) * 1e3:.2f} ({np.mean(first) * 1e3:.2f}) "
        f"ms at the start, {np.median(last) * 1e3:.2f} ({np.mean(last) * 1e3:.2f}) ms with "
        f"{candidates} candidates in the store"
    )


def main() -> None:
    """Print utilisation for every crew, then what the driver costs in a long run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--median-seconds", type=float, default=60.0, help="of an evaluation")
    parser.add_argument("--rounds", type=int, default=20, help="evaluations per worker, about")
    parser.add_argument("--candidates", type=int, default=100_000, help="of the long run; 0: none")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # lm-eval's, about the zoo's tasks
    for line in _utilisations(options.median_seconds, options.rounds):
        print(line, flush=True)
    if options.candidates:
        print(_overhead(options.candidates))


if __name__ == "__main__":
    main()
