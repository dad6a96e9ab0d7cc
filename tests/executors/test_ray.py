"""Real workers on a real Ray cluster, and what happens when they fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evomerge.executors.ray import RayExecutor
from evomerge.nouns import Evaluation, Job
from evomerge.recipes import Recipe
from evomerge.scoring import Fitness
from evomerge.worker import Worker, WorkerSetup

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "experiments" / "zoo"
FITNESS = Fitness.model_validate(
    {
        "include_path": str(ROOT / "fitness" / "zoo_skills"),
        "tasks": {"arithmetic": {"task": "zoo_arithmetic", "search_examples": 8}},
    }
)
KILLED_ONCE, KILLED_ALWAYS, HANGS_ONCE, OUT_OF_MEMORY, SLOW = 1.125, 1.25, 1.375, 1.5, 1.625


def setup(engine: str = "transformers", **options: Any) -> WorkerSetup:
    sources = {"arithmetic": str(ZOO / "arithmetic")}
    return WorkerSetup(str(ZOO / "base"), sources, None, FITNESS, engine, options)


def job(number: int, weight: float) -> Job:
    recipe = Recipe(
        base=str(ZOO / "base"),
        sources={"arithmetic": str(ZOO / "arithmetic")},
        operator="task_arithmetic",
        parameters={"weight": weight},
        dtype="bfloat16",
    )
    return Job(number, recipe, "search")


def results(executor: RayExecutor, jobs: list[Job]) -> dict[int, Evaluation]:
    for item in jobs:
        executor.submit(item)
    found = [executor.result() for _ in jobs]
    assert sorted(done.number for done, _ in found) == sorted(item.number for item in jobs)
    return {done.number: evaluation for done, evaluation in found}


def loads(folder: Path) -> Counter[float]:
    """How often each weight was loaded, in any process."""
    lines = (folder / "loads").read_text().splitlines()
    return Counter(float(line.split()[0]) for line in lines)


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def executor(cluster: Any, faults: Path) -> Iterator[RayExecutor]:
    """Two workers that fail on demand."""
    made = RayExecutor(workers=2, deadline_minimum_seconds=5, first_deadline_seconds=8)
    made.start(setup("faulty", folder=str(faults)))
    yield made
    made.close()


def test_scores_are_those_of_a_worker_in_this_process(executor: RayExecutor) -> None:
    jobs = [job(number, weight) for number, weight in enumerate((0.0, 0.25, 0.5, 1.0))]
    found = results(executor, jobs)
    worker = Worker(setup(threads=1))
    assert {n: e.tasks for n, e in found.items()} == {
        item.number: worker.evaluate(item).tasks for item in jobs
    }
    worker.close()


def test_a_candidate_whose_worker_is_killed_is_evaluated_elsewhere(
    executor: RayExecutor, faults: Path
) -> None:
    found = results(executor, [job(0, KILLED_ONCE), job(1, 0.75)])
    assert [found[n].status for n in (0, 1)] == ["done", "done"]
    assert loads(faults)[KILLED_ONCE] == 2
    assert loads(faults)[0.75] == 1


def test_a_candidate_that_takes_three_workers_down_has_failed(
    executor: RayExecutor, faults: Path
) -> None:
    found = results(executor, [job(0, KILLED_ALWAYS), job(1, 0.875)])
    assert found[0].status == "failed"
    assert found[0].error is not None
    assert found[0].error.startswith("took 3 workers down, at last: ActorDiedError")
    assert found[1].status == "done"
    assert loads(faults)[KILLED_ALWAYS] == 3


def test_a_worker_that_hangs_is_replaced(executor: RayExecutor, faults: Path) -> None:
    found = results(executor, [job(0, HANGS_ONCE), job(1, 0.625)])
    assert [found[n].status for n in (0, 1)] == ["done", "done"]
    assert loads(faults)[HANGS_ONCE] == 2


def test_an_engine_out_of_memory_fails_its_candidate_and_is_replaced(
    executor: RayExecutor, faults: Path
) -> None:
    found = results(executor, [job(0, OUT_OF_MEMORY)])
    assert found[0].status == "failed"
    assert found[0].error == "MemoryError: no room for the cache"
    assert loads(faults)[OUT_OF_MEMORY] == 1
    full = {pid for weight, pid in noted(faults) if weight == OUT_OF_MEMORY}
    assert results(executor, [job(n, 0.5) for n in range(4)])[3].status == "done"
    assert full.isdisjoint(pid for _, pid in noted(faults)[-4:])


def noted(folder: Path) -> list[tuple[float, int]]:
    lines = (folder / "loads").read_text().splitlines()
    return [(float(weight), int(pid)) for weight, pid in map(str.split, lines)]
