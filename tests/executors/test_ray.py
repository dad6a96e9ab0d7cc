"""Real workers on a real Ray cluster, and what happens when they fail."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import small
from processes import wait_for

from evomerge.engines.transformers import TransformersEngine
from evomerge.engines.vllm import VllmEngine
from evomerge.errors import (
    ConfigError,
    InputError,
    MachineError,
    SearchError,
    SourceChangedError,
)
from evomerge.executors._inspection import differences, inspect_machine
from evomerge.executors._ray_cluster import WorkerResources
from evomerge.executors._ray_pool import WorkerPool
from evomerge.executors._remote import Refusal, RemoteWorker
from evomerge.executors.ray import FATAL, RayExecutor
from evomerge.recipes import Recipe
from evomerge.scoring import Fitness
from evomerge.types import Evaluation, Job
from evomerge.worker import Worker, WorkerSetup

pytestmark = pytest.mark.xdist_group("ray")

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "experiments" / "zoo"
ARITHMETIC = Fitness.model_validate(
    {
        "include_path": str(ROOT / "fitness" / "zoo_skills"),
        "tasks": {"arithmetic": {"task": "zoo_arithmetic", "search_examples": 8}},
    }
)
NEARNESS = Fitness.model_validate({"tasks": {"nearness": {"scorer": small.SCORER}}})
KILLED_ONCE, KILLED_LATER_ONCE, KILLED_ALWAYS = 1.125, 1.1875, 1.25
OUT_OF_MEMORY, UNUSABLE_ONCE = 1.5, 1.6875
DISK_FULL_ONCE, DISK_FULL = 1.75, 1.8125
HANGS_ONCE, HANGS_LATER_ONCE, QUICK, SLOW = 1.375, 1.4375, 0.375, 1.625
# long for a candidate of milliseconds on a machine that others keep busy
DEADLINES: dict[str, Any] = {"first_deadline_seconds": 10, "deadline_minimum_seconds": 10}


class Small:
    """Models of one matrix, written into a folder."""

    def __init__(self, folder: Path) -> None:
        self.sources = small.write(folder)
        self.base = self.sources.pop("base")

    def setup(self, engine: str = "faulty", **options: Any) -> WorkerSetup:
        keys = {"module": small.MODULE, **options}
        return WorkerSetup(
            composition=recipe(self.base, self.sources, 1.0),
            fitness=NEARNESS,
            engine=engine,
            engine_options=keys,
        )

    def job(self, number: int, weight: float) -> Job:
        return Job(number, recipe(self.base, self.sources, weight), "search")


def zoo(**options: Any) -> WorkerSetup:
    """Language models."""
    sources = {"arithmetic": str(ZOO / "arithmetic")}
    return WorkerSetup(
        composition=recipe(str(ZOO / "base"), sources, 1.0),
        fitness=ARITHMETIC,
        engine="transformers",
        engine_options=options,
    )


def recipe(base: str, sources: dict[str, str], weight: float) -> Recipe:
    return Recipe(
        base=base,
        sources=dict(sources),
        operator="task_arithmetic",
        parameters={"weight": weight},
        dtype="bfloat16",
    )


def results(executor: RayExecutor, jobs: list[Job]) -> dict[int, Evaluation]:
    for item in jobs:
        executor.submit(item)
    found = [executor.result() for _ in jobs]
    assert sorted(done.number for done, _ in found) == sorted(item.number for item in jobs)
    return {done.number: evaluation for done, evaluation in found}


def noted(folder: Path) -> list[tuple[float, int]]:
    """Weight and process of every load."""
    log = folder / "loads"
    lines = log.read_text().splitlines() if log.exists() else []
    return [(float(weight), int(pid)) for weight, pid in map(str.split, lines)]


def loads(folder: Path) -> Counter[float]:
    """How often each weight was loaded, in any process."""
    return Counter(weight for weight, _ in noted(folder))


def refused(folder: Path) -> int:
    """How many engines found no place."""
    return len(list(folder.glob("refused-*")))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return Small(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def executor(cluster: Any, models: Small, faults: Path) -> Iterator[RayExecutor]:
    """Two workers that fail on demand; each that a test kills costs seconds."""
    made = RayExecutor(workers=2, **DEADLINES)
    made.start(models.setup(folder=str(faults)))
    yield made
    made.close()


@pytest.fixture
def add_node(cluster: Any) -> Iterator[Callable[..., Any]]:
    """Adds nodes, which leave after the test; the next one begins when Ray has noticed."""
    import ray

    nodes = []

    def add(**resources: int) -> Any:
        nodes.append(cluster.add_node(**resources))
        return nodes[-1]

    yield add
    for node in nodes:
        if node in cluster.worker_nodes:
            cluster.remove_node(node)
    wait_for(lambda: sum(node["Alive"] for node in ray.nodes()) == 1)


def test_scores_are_those_of_a_worker_in_this_process(executor: RayExecutor, models: Small) -> None:
    jobs = [models.job(number, weight) for number, weight in enumerate((0.0, 0.25, 0.5, 1.0))]
    found = results(executor, jobs)
    worker = Worker(models.setup("torch", threads=1))
    assert {n: e.tasks for n, e in found.items()} == {
        item.number: worker.evaluate(item).tasks for item in jobs
    }
    worker.close()


def test_scores_of_a_language_model_are_those_of_a_worker_in_this_process(cluster: Any) -> None:
    wanted = zoo(threads=1)
    jobs = [
        Job(
            number,
            recipe(str(ZOO / "base"), {"arithmetic": str(ZOO / "arithmetic")}, weight),
            "search",
        )
        for number, weight in enumerate((0.0, 0.25, 0.5, 1.0))
    ]
    pool = RayExecutor()
    try:
        pool.start(wanted)
        found = results(pool, jobs)
    finally:
        pool.close()
    worker = Worker(wanted)
    assert {n: e.tasks for n, e in found.items()} == {
        item.number: worker.evaluate(item).tasks for item in jobs
    }
    worker.close()


def test_a_candidate_whose_worker_is_killed_is_evaluated_elsewhere(
    executor: RayExecutor, models: Small, faults: Path
) -> None:
    found = results(executor, [models.job(0, KILLED_ONCE), models.job(1, 0.75)])
    assert [found[n].status for n in (0, 1)] == ["done", "done"]
    assert loads(faults)[KILLED_ONCE] == 2
    assert loads(faults)[0.75] == 1


def test_a_candidate_that_takes_three_workers_down_has_failed(
    executor: RayExecutor, models: Small, faults: Path
) -> None:
    found = results(executor, [models.job(0, KILLED_ALWAYS), models.job(1, 0.875)])
    assert found[0].status == "failed"
    assert found[0].error is not None
    assert found[0].error.startswith("took 3 workers down, at last: ActorDiedError")
    assert found[1].status == "done"
    assert loads(faults)[KILLED_ALWAYS] == 3


def test_a_worker_that_hangs_is_replaced(
    executor: RayExecutor, models: Small, faults: Path
) -> None:
    found = results(executor, [models.job(0, HANGS_ONCE), models.job(1, 0.625)])
    assert [found[n].status for n in (0, 1)] == ["done", "done"]
    assert loads(faults)[HANGS_ONCE] == 2


@pytest.mark.slow
def test_a_worker_that_hangs_is_noticed_while_others_finish_often(
    executor: RayExecutor, models: Small, faults: Path
) -> None:
    executor.submit(models.job(0, HANGS_LATER_ONCE))
    number, done = 0, None
    while done != 0:
        assert number < 2000, "a stream of quick candidates hides the one that hangs"
        number += 1
        executor.submit(models.job(number, QUICK))
        finished, evaluation = executor.result()
        assert evaluation.status == "done"
        done = finished.number
    assert executor.result()[0].number == number  # still at work
    assert loads(faults)[HANGS_LATER_ONCE] == 2


def test_a_candidate_whose_engine_cannot_go_on_is_evaluated_elsewhere(
    executor: RayExecutor, models: Small, faults: Path
) -> None:
    found = results(executor, [models.job(0, UNUSABLE_ONCE)])
    assert found[0].status == "done"
    places = {pid for weight, pid in noted(faults) if weight == UNUSABLE_ONCE}
    assert len(places) == loads(faults)[UNUSABLE_ONCE] == 2


@pytest.mark.slow
def test_a_full_disk_sends_a_candidate_elsewhere_and_ends_a_run_that_meets_it_everywhere(
    executor: RayExecutor, models: Small, faults: Path
) -> None:
    assert results(executor, [models.job(0, DISK_FULL_ONCE)])[0].status == "done"
    assert loads(faults)[DISK_FULL_ONCE] == 2
    executor.submit(models.job(1, DISK_FULL))
    with pytest.raises(MachineError, match=r"No space left on device.*Make room on the disk"):
        executor.result()
    assert loads(faults)[DISK_FULL] == 3


def test_an_engine_out_of_memory_fails_its_candidate_and_is_replaced(
    executor: RayExecutor, models: Small, faults: Path
) -> None:
    found = results(executor, [models.job(0, OUT_OF_MEMORY)])
    assert found[0].status == "failed"
    assert found[0].error == "MemoryError: no room for the cache"
    assert loads(faults)[OUT_OF_MEMORY] == 1
    full = {pid for weight, pid in noted(faults) if weight == OUT_OF_MEMORY}
    assert results(executor, [models.job(n, 0.5) for n in range(4)])[3].status == "done"
    assert full.isdisjoint(pid for _, pid in noted(faults)[-4:])


@pytest.mark.slow
def test_a_worker_that_cannot_be_opened_does_not_stop_the_others(
    cluster: Any, models: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fatal = 2  # each attempt takes seconds
    monkeypatch.setattr("evomerge.executors.ray.FATAL", fatal)
    pool = RayExecutor(workers=2)
    try:
        pool.start(models.setup(folder=str(tmp_path), places=1, refusals=fatal + 2))
        number = 0
        while refused(tmp_path) <= fatal:  # while the other one is at work
            assert results(pool, [models.job(number, SLOW)])[number].status == "done"
            number += 1
        # the only open worker dies, and is not opened at once either
        assert results(pool, [models.job(number, KILLED_ONCE)])[number].status == "done"
        assert refused(tmp_path) >= fatal + 2
    finally:
        pool.close()


@pytest.mark.parametrize(
    ("workers", "fatal"), [(1, 1), pytest.param(2, FATAL, marks=pytest.mark.slow)]
)
def test_a_pool_that_cannot_be_opened_ends_the_run(
    workers: int,
    fatal: int,
    cluster: Any,
    models: Small,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("evomerge.executors.ray.FATAL", fatal)  # each attempt takes seconds
    pool = RayExecutor(workers=workers)
    try:
        with pytest.raises(SearchError, match=r"(?s)no worker can be opened: .*no place on this"):
            pool.start(models.setup(folder=str(tmp_path), places=0))
        assert refused(tmp_path) >= workers * fatal
    finally:
        pool.close()


def test_a_node_with_other_files_that_joins_later_does_not_stop_the_others(
    executor: RayExecutor, models: Small, faults: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2000):  # an earlier test may have killed one, which is not open again yet
        results(executor, [models.job(number, QUICK) for number in range(2)])
        if len({pid for _, pid in noted(faults)[-2:]}) == 2:
            break
    else:
        pytest.fail("one of two workers is never opened again")
    other = faults / "labels.json"
    other.write_text("{}")  # for all that open from now on
    try:
        number = 0
        while "labels.json: " not in caplog.text:
            assert number < 2000, "the worker with other files is not refused"
            found = results(executor, [models.job(number, QUICK if number else KILLED_LATER_ONCE)])
            assert found[number].status == "done"
            number += 1
    finally:
        other.unlink()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_node_that_leaves_takes_no_candidate_with_it(
    workers: int, cluster: Any, add_node: Callable[..., Any], models: Small, tmp_path: Path
) -> None:
    node = add_node(num_cpus=2, num_gpus=workers)
    pool = RayExecutor(workers=workers, gpus_per_worker=1)
    try:
        wanted = models.setup(folder=str(tmp_path))
        assert (pool.gpus, pool.planned_gpus(wanted)) == (0, workers)
        pool.start(wanted)
        assert 1 <= pool.gpus <= workers
        jobs = [models.job(number, weight) for number, weight in enumerate((HANGS_ONCE, 0.25, 0.5))]
        for item in jobs:
            pool.submit(item)
        wait_for(lambda: HANGS_ONCE in loads(tmp_path))  # and does not end before its node
        cluster.remove_node(node, allow_graceful=False)
        add_node(num_cpus=2, num_gpus=1)
        found = [pool.result() for _ in jobs]
        assert {done.number for done, _ in found} == {0, 1, 2}
        assert all(evaluation.status == "done" for _, evaluation in found)
        assert loads(tmp_path)[HANGS_ONCE] == 2
        assert pool.gpus == 1  # another worker finds no room
    finally:
        pool.close()


def test_the_gpus_of_a_worker_may_lie_on_several_nodes(
    add_node: Callable[..., Any], models: Small
) -> None:
    from ray.util import placement_group_table

    for _ in range(2):
        add_node(num_cpus=1, num_gpus=1)
    wanted = models.setup("torch")
    pool = WorkerPool(1, WorkerResources(gpus=2, cpus=1, nodes=2), FATAL)
    pool.start(wanted, inspect_machine(wanted), {})
    try:
        wait_for(pool.workers[0].has_answered)
        groups = [g for g in placement_group_table().values() if g["state"] == "CREATED"]
        assert len(set(groups[0]["bundles_to_node_id"].values())) == 2
    finally:
        pool.stop()
    wait_for(lambda: all(g["state"] == "REMOVED" for g in placement_group_table().values()))


def test_an_engine_of_one_process_does_not_spread_over_nodes() -> None:
    executor = RayExecutor(gpus_per_worker=2, nodes_per_worker=2)
    with pytest.raises(ConfigError, match="nodes_per_worker: 2, but the engine computes in one"):
        executor.validate(TransformersEngine())


@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vllm")
@pytest.mark.parametrize("vllm", [None, {"pipeline_parallel_size": 2}])
def test_a_model_is_not_spread_over_more_gpus_than_a_worker_has(
    vllm: dict[str, Any] | None,
) -> None:
    engine = VllmEngine(tensor_parallel_size=2, vllm=vllm)
    ranks = 4 if vllm else 2
    with pytest.raises(ConfigError, match=rf"per_worker: 1, .* over {ranks} .* worker {ranks}\."):
        RayExecutor(gpus_per_worker=1).validate(engine)
    RayExecutor(gpus_per_worker=4, nodes_per_worker=2).validate(engine)
    RayExecutor().validate(engine)  # as many processes on a CPU


def test_what_does_not_fit_on_any_node_is_refused(cluster: Any, models: Small) -> None:
    pool = RayExecutor(gpus_per_worker=8, cpus_per_worker=5)
    with pytest.raises(InputError, match=r"needs 5 CPUs and 8 GPUs on 1 nodes; .* has 4 CPUs"):
        pool.start(models.setup("torch"))
    pool.close()


def test_another_model_on_a_node_is_refused_file_by_file(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    here, there = hub(tmp_path / "here"), hub(tmp_path / "there")
    shutil.copy(ZOO / "kanji" / "model.safetensors", there / "model.safetensors")
    (there / "tokenizer_config.json").write_text("{}")
    (there / "generation_config.json").unlink()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "here"))
    pool = RayExecutor(runtime_env={"env_vars": {"HF_HUB_CACHE": str(tmp_path / "there")}})
    models = recipe(str(ZOO / "base"), {"arithmetic": "zoo/arithmetic"}, 1.0)
    wanted = replace(zoo(), composition=models)
    with pytest.raises(InputError) as refused:
        pool.start(wanted)
    pool.close()
    text = "\n".join(refused.value.problems)
    assert len(refused.value.problems) == 3
    assert "generation_config.json: missing there" in text
    assert f"{there} (weights): differs from that on" in text
    assert "tokenizer_config.json: differs from that on" in text
    assert here.is_dir()


def test_other_versions_on_a_node_are_named_all_at_once() -> None:
    here = inspect_machine(zoo())
    other = replace(here, versions={**here.versions, "torch": "2.0.0", "lm_eval": "0.4.0"})
    problems = differences(here, other, "node 10.0.0.7")
    assert len(problems) == 2
    assert problems[0].startswith("node 10.0.0.7: has torch 2.0.0, ")
    assert differences(here, here, "node 10.0.0.7") == []


def test_another_fitness_on_a_node_is_not_taken_for_a_model() -> None:
    here = inspect_machine(zoo())
    stored = {**here.stored, "fitness": here.stored["fitness"]._replace(digest="f00")}
    (problem,) = differences(here, replace(here, stored=stored), "node 10.0.0.7")
    assert "zoo_skills: differs from that on" in problem
    assert problem.endswith(
        "Copy the fitness and its tasks to that node again, or put them on a shared disk."
    )


def test_what_a_worker_refuses_comes_back_as_the_same_error(cluster: Any, models: Small) -> None:
    pool = RayExecutor()
    with pytest.raises(ConfigError, match=r"tasks\.arithmetic: lm-eval cannot ask the engine"):
        pool.start(replace(models.setup("torch"), fitness=ARITHMETIC))
    pool.close()


def test_a_source_that_vanishes_is_refused_as_it_is_by_a_worker_here(tmp_path: Path) -> None:
    own = Small(tmp_path)
    wanted = own.setup("torch", threads=1)
    worker = RemoteWorker(wanted, inspect_machine(wanted))
    assert worker.open() is None
    shutil.rmtree(tmp_path / "left")
    refusal = worker.evaluate(own.job(0, 0.5))
    worker.close()
    assert isinstance(refusal, Refusal)
    assert refusal.final
    with pytest.raises(SourceChangedError, match="left"):
        raise refusal.error()


@pytest.mark.slow
def test_a_source_that_vanishes_stops_the_search(cluster: Any, tmp_path: Path) -> None:
    own = Small(tmp_path)
    pool = RayExecutor()
    try:
        pool.start(own.setup("torch"))
        shutil.rmtree(tmp_path / "left")
        pool.submit(own.job(0, 0.5))
        with pytest.raises(SourceChangedError, match="left"):
            pool.result()
    finally:
        pool.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus_per_worker": 1.5}, "expected a whole number above 1, got 1.5"),
        ({"nodes_per_worker": 2}, "2 nodes need as many GPUs"),
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RayExecutor(**options)


def hub(cache: Path) -> Path:
    """A hub's cache with the model ``zoo/arithmetic``; returns its folder."""
    place = cache / "models--zoo--arithmetic"
    shutil.copytree(ZOO / "arithmetic", place / "snapshots" / "f00")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("f00")
    return place / "snapshots" / "f00"
