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
from resource import RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from evomerge.analysis.run import Run
from evomerge.config.load import load
from evomerge.executors import Executor, TellOrder
from evomerge.search.baselines import baselines
from evomerge.search.run import resume, start
from evomerge.search.spec import Progress, Search
from evomerge.store import Store
from evomerge.types import Evaluation, Job, TaskScores, count
from evomerge.worker import WorkerSetup

ROOT = Path(__file__).parents[1]
ZOO = ROOT / "experiments" / "zoo"
CREWS = (1, 8, 16, 64, 256)
EXAMPLES = 200
TARGET_MS = 5  # of the driver per candidate, with 100,000 of them in the store
SPREAD = 1.0  # of the logarithm: one evaluation in a hundred takes ten times the median


class Spent(NamedTuple):
    """Seconds of this thread: on a core, and ready to run while others had the cores."""

    cpu: float
    queue: float

    @classmethod
    def now(cls) -> Spent:
        """Since the thread began. Linux counts the queue, where its kernel was built to."""
        counts = Path("/proc/thread-self/schedstat")
        waited = int(counts.read_text().split()[1]) / 1e9 if counts.exists() else 0.0
        return cls(time.thread_time(), waited)

    def since(self, earlier: Spent) -> Spent:
        """What was spent in between."""
        return Spent(self.cpu - earlier.cpu, self.queue - earlier.queue)


class SimulatedCrew(Executor):
    """Workers whose evaluations take lognormal times on a clock of their own.

    Args:
        workers: how many.
        median_seconds: of an evaluation.

    Attributes:
        driver_seconds: real ones spent outside this class, before each result; and
            `driver_parts`, what of them was spent where.
        jobs: in the order in which they began.
        starts: simulated, when each evaluation began; and `lengths`, how long it took.
    """

    def __init__(self, workers: int, median_seconds: float, tell_order: TellOrder) -> None:
        self.capacity, self.tell_order, self.lookahead = workers, tell_order, 2 * workers
        self.driver_seconds: list[float] = []
        self.driver_parts: list[Spent] = []
        self.jobs: list[Job] = []
        self.starts: list[float] = []
        self.lengths: list[float] = []
        self._median = median_seconds
        self._rng = np.random.default_rng(0)
        self._queue: deque[Job] = deque()
        self._at_work: list[tuple[float, int, Job]] = []
        self._now, self._left, self._left_spent = 0.0, 0.0, Spent.now()

    def start(self, setup: WorkerSetup) -> None:
        """Nothing to open: from here on the driver's time counts."""
        self._leave()

    def submit(self, job: Job) -> None:
        """See `Executor.submit`."""
        self._queue.append(job)
        self._assign(self._now + time.perf_counter() - self._left)

    def result(self) -> tuple[Job, Evaluation]:
        """See `Executor.result`."""
        self.driver_parts.append(Spent.now().since(self._left_spent))
        spent = time.perf_counter() - self._left
        self.driver_seconds.append(spent)
        end, _, job = heapq.heappop(self._at_work)
        self._now = max(self._now + spent, end)  # it may have had to wait for the driver
        self._assign(self._now)
        evaluation = _evaluation(job)
        self._leave()
        return job, evaluation

    def close(self) -> None:
        """Nothing to close."""

    def _leave(self) -> None:
        self._left, self._left_spent = time.perf_counter(), Spent.now()

    def _assign(self, now: float) -> None:
        while self._queue and len(self._at_work) < self.capacity:
            job = self._queue.popleft()
            part = 1.0 if job.portion is None else count(job.portion) / EXAMPLES
            seconds = self._median * part * float(self._rng.lognormal(0, SPREAD))
            heapq.heappush(self._at_work, (now + seconds, job.number, job))
            self.jobs.append(job)
            self.starts.append(now)
            self.lengths.append(seconds)

    def utilisation(self, numbers: range) -> float:
        """Share of worker time at work, from the first start to the last of some candidates.

        Args:
            numbers: of the candidates that were searched.
        """
        began = [
            start
            for job, start in zip(self.jobs, self.starts, strict=True)
            if job.number in numbers and job.split == "search"
        ]
        begin, end = began[0], began[-1]
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
        right = rng.random(EXAMPLES) < rng.random()
        asked = range(EXAMPLES) if job.portion is None else job.portion["arithmetic"]
        scores = tuple(float(right[example]) for example in asked)
        tasks["arithmetic"] = TaskScores(sum(scores) / len(scores), tuple(asked), scores)
    return Evaluation("done", tasks, merge_seconds=1.0, score_seconds=1.0)


SPACE = {
    "kind": "parameter",
    "operator": "task_arithmetic",
    "granularity": {"layers": 2, "roles": ["attention", "mlp", "other"]},
    "parameters": {"weight": {"low": -0.5, "high": 1.5}},
}
CMAES = {"name": "cmaes", "population_size": 64}
RACE = {"name": "cmaes", "population_size": 32}
KINDS: tuple[tuple[str, dict[str, Any], TellOrder, Any], ...] = (
    ("cmaes, 64 a generation, finished", CMAES, "finished", False),
    ("cmaes, 64 a generation, asked", CMAES, "asked", False),
    ("cmaes, racing, 32 a cohort, finished", RACE, "finished", {}),
    ("cmaes, racing, 32 a cohort, asked", RACE, "asked", {}),
    ("m2n2, finished", {"name": "m2n2", "insert": "finished"}, "finished", False),
    ("m2n2, inserted as asked", {"name": "m2n2"}, "finished", False),
    ("random, finished", {"name": "random"}, "finished", False),
)


def _search(optimizer: dict[str, Any], evaluations: int, racing: Any = False) -> Search:
    """A search over the zoo, of 18 genes or of children."""
    content = {
        "name": "workers",
        "base": str(ZOO / "base"),
        "sources": {name: str(ZOO / name) for name in ("arithmetic", "strings", "kanji")},
        "space": {"kind": "crossover"} if optimizer["name"] == "m2n2" else SPACE,
        "fitness": {
            "include_path": str(ROOT / "fitness" / "zoo_skills"),
            "tasks": {"arithmetic": {"task": "zoo_arithmetic"}},
        },
        **{"optimizer": optimizer, "racing": racing, "start": "initial"},
        "budget": {"evaluations": evaluations},
    }
    return load(content).search


def _with(crew: SimulatedCrew, search: Search) -> Search:
    return replace(search, new_executor=lambda: crew)


def _silent(_: Progress) -> None:
    pass


def _utilisations(median_seconds: float, rounds: int) -> Iterator[str]:
    for label, optimizer, order, racing in KINDS:
        for workers in CREWS:
            population = optimizer.get("population_size", 64)
            evaluations = rounds * max(population, workers)
            search = _search(optimizer, evaluations, racing)
            crew = SimulatedCrew(workers, median_seconds, order)
            with TemporaryDirectory() as folder:
                start(_with(crew, search), Path(folder) / "run", _silent)
            first = len(baselines(search.context, search.paper_defaults))
            busy = crew.utilisation(range(first, first + evaluations))
            driver = float(np.median(crew.driver_seconds))
            yield (
                f"{label:<36} {workers:>4} workers  {busy:6.1%} busy  "
                f"driver {driver * 1000:5.2f} ms per candidate"
            )


def _overhead(candidates: int, folder: Path) -> Iterator[str]:
    """What one long run costs the driver, and going on with it."""
    crew, search = SimulatedCrew(64, 60, "finished"), _search(CMAES, candidates)
    run = folder / "run"
    start(_with(crew, search), run, _silent)
    for where, some in (
        ("at the start", slice(100, 1100)),
        (f"with {candidates} candidates in the store", slice(-1100, -100)),
    ):
        real = np.array(crew.driver_seconds[some]) * 1e3
        cpu, queue = np.array(crew.driver_parts[some]).T * 1e3
        rest = real - cpu - queue
        yield (
            f"driver {where}, ms per candidate: median {np.median(real):.2f}, mean "
            f"{np.mean(real):.2f} (at work {np.mean(cpu):.2f}, waiting for a core that others use "
            f"{np.mean(queue):.2f}, for the disk and all else {np.mean(rest):.2f}); without other "
            f"programs {np.mean(real - queue):.2f}, target {TARGET_MS}"
        )
    crew.jobs.clear()
    for what, do in (("replay", _replay), ("reading the summary", _read)):
        began = time.thread_time()
        do(search, run)
        seconds_each = (time.thread_time() - began) / candidates
        peak = getrusage(RUSAGE_SELF).ru_maxrss / 1024
        yield (
            f"{what}: CPU {seconds_each * 1e3:.2f} ms per candidate; "
            f"peak of memory so far {peak:.0f} MiB"
        )
    yield f"the database: {Store.path(run).stat().st_size / 2**20:.0f} MiB"


def _replay(search: Search, run: Path) -> None:
    """What `evomerge resume` does of a finished run."""
    resume(_with(SimulatedCrew(64, 60, "finished"), search), run, _silent)


def _read(search: Search, run: Path) -> None:
    """What `evomerge show` reads."""
    Run.open(run)


def main() -> None:
    """Print utilisation for every crew, then what a long run costs the driver."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--median-seconds", type=float, default=60.0, help="of an evaluation")
    parser.add_argument(
        "--rounds", type=int, default=20, help="evaluations per worker, about; 0: none"
    )
    parser.add_argument("--candidates", type=int, default=100_000, help="of the long run; 0: none")
    parser.add_argument(
        "--folder", type=Path, help="on the disk to measure; default: of temporary files"
    )
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # lm-eval's, about the zoo's tasks
    if options.rounds:
        for line in _utilisations(options.median_seconds, options.rounds):
            print(line, flush=True)
    if options.candidates:
        with TemporaryDirectory(dir=options.folder) as folder:
            for line in _overhead(options.candidates, Path(folder)):
                print(line, flush=True)


if __name__ == "__main__":
    main()
