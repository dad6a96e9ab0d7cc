"""Real workers on a real Ray cluster, and what happens when they fail."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import CheckpointError, ConfigError, InputError, SearchError
from evomerge.executors._inspection import differences, inspect_machine
from evomerge.executors._ray_cluster import Demand
from evomerge.executors._ray_crew import Agency, dismiss, has_answered
from evomerge.executors.ray import FATAL, RayExecutor
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
UNUSABLE_ONCE = 1.6875


def setup(engine: str = "transformers", **options: Any) -> WorkerSetup:
    sources = {"arithmetic": str(ZOO / "arithmetic")}
    return WorkerSetup(str(ZOO / "base"), sources, None, FITNESS, engine, options)


def job(number: int, weight: float, arithmetic: Path = ZOO / "arithmetic") -> Job:
    recipe = Recipe(
        base=str(ZOO / "base"),
        sources={"arithmetic": str(arithmetic)},
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
    return Counter(weight for weight, _ in noted(folder))


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


def test_a_candidate_whose_engine_cannot_go_on_is_evaluated_elsewhere(
    executor: RayExecutor, faults: Path
) -> None:
    found = results(executor, [job(0, UNUSABLE_ONCE)])
    assert found[0].status == "done"
    places = {pid for weight, pid in noted(faults) if weight == UNUSABLE_ONCE}
    assert len(places) == loads(faults)[UNUSABLE_ONCE] == 2


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


def test_a_worker_that_hangs_is_noticed_while_others_finish_often(
    cluster: Any, tmp_path: Path
) -> None:
    crew = RayExecutor(workers=2, deadline_minimum_seconds=5, first_deadline_seconds=5)
    try:
        crew.start(setup("faulty", folder=str(tmp_path)))
        crew.submit(job(0, HANGS_ONCE))
        number, done = 0, None
        while done != 0:
            assert number < 2000, "a stream of quick candidates hides the one that hangs"
            number += 1
            crew.submit(job(number, 0.5))
            finished, evaluation = crew.result()
            assert evaluation.status == "done"
            done = finished.number
        assert loads(tmp_path)[HANGS_ONCE] == 2
    finally:
        crew.close()


def test_a_place_that_cannot_be_filled_does_not_stop_the_others(
    cluster: Any, tmp_path: Path
) -> None:
    crew = RayExecutor(workers=2)
    try:
        crew.start(setup("faulty", folder=str(tmp_path), places=1, refusals=FATAL + 3))
        number = 0
        while refused(tmp_path) <= FATAL:  # while the other one is at work
            assert results(crew, [job(number, SLOW)])[number].status == "done"
            number += 1
        # the only open worker dies, and is not opened at once either
        assert results(crew, [job(number, KILLED_ONCE)])[number].status == "done"
        assert refused(tmp_path) >= FATAL + 3
    finally:
        crew.close()


def test_a_crew_that_cannot_be_opened_ends_the_run(cluster: Any, tmp_path: Path) -> None:
    crew = RayExecutor(workers=2)
    try:
        with pytest.raises(SearchError, match=r"(?s)no worker can be opened: .*no place on this"):
            crew.start(setup("faulty", folder=str(tmp_path), places=0))
        assert refused(tmp_path) >= 2 * FATAL
    finally:
        crew.close()


def test_a_node_with_other_files_that_joins_later_does_not_stop_the_others(
    cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arithmetic = tmp_path / "arithmetic"
    shutil.copytree(ZOO / "arithmetic", arithmetic)
    crew = RayExecutor(workers=2)
    options = setup("faulty", folder=str(tmp_path))
    try:
        crew.start(replace(options, sources={"arithmetic": str(arithmetic)}))
        wait_for(lambda: (tmp_path / "made-1").exists())
        (arithmetic / "tokenizer_config.json").write_text("{}")  # for all that open from now on
        number = 0
        while "tokenizer_config.json: differs from that on" not in caplog.text:
            weight = KILLED_ONCE if number == 0 else SLOW
            found = results(crew, [job(number, weight, arithmetic)])
            assert found[number].status == "done"
            number += 1
    finally:
        crew.close()


def refused(folder: Path) -> int:
    """How many engines found no place."""
    return len(list(folder.glob("refused-*")))


def noted(folder: Path) -> list[tuple[float, int]]:
    log = folder / "loads"
    lines = log.read_text().splitlines() if log.exists() else []
    return [(float(weight), int(pid)) for weight, pid in map(str.split, lines)]


def test_a_node_that_leaves_takes_no_candidate_with_it(cluster: Any, tmp_path: Path) -> None:
    nodes = [cluster.add_node(num_cpus=2, num_gpus=2)]
    cluster.wait_for_nodes()
    crew = RayExecutor(workers=2, gpus_per_worker=1)
    try:
        wanted = setup("faulty", folder=str(tmp_path))
        assert (crew.gpus, crew.planned_gpus(wanted)) == (0, 2)
        crew.start(wanted)
        assert 1 <= crew.gpus <= 2
        jobs = [job(number, weight) for number, weight in enumerate((SLOW, 0.25, 0.5))]
        for item in jobs:
            crew.submit(item)
        wait_for(lambda: SLOW in loads(tmp_path))
        cluster.remove_node(nodes.pop(), allow_graceful=False)
        nodes.append(cluster.add_node(num_cpus=2, num_gpus=1))
        found = [crew.result() for _ in jobs]
        assert {done.number for done, _ in found} == {0, 1, 2}
        assert all(evaluation.status == "done" for _, evaluation in found)
        assert loads(tmp_path)[SLOW] == 2
        assert crew.gpus == 1  # the other worker finds no room
    finally:
        crew.close()
        for node in nodes:
            cluster.remove_node(node)


def test_the_gpus_of_a_worker_may_lie_on_several_nodes(cluster: Any) -> None:
    from ray.util import placement_group_table

    nodes = [cluster.add_node(num_cpus=1, num_gpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    wanted = setup()
    member = Agency(wanted, inspect_machine(wanted), Demand(2, 1, 2), {}).hire(0)
    try:
        wait_for(lambda: has_answered(member))
        groups = [g for g in placement_group_table().values() if g["state"] == "CREATED"]
        assert len(set(groups[0]["bundles_to_node_id"].values())) == 2
    finally:
        dismiss(member)
        for node in nodes:
            cluster.remove_node(node)
    wait_for(lambda: all(g["state"] == "REMOVED" for g in placement_group_table().values()))


def test_an_engine_of_one_process_does_not_spread_over_nodes() -> None:
    crew = RayExecutor(gpus_per_worker=2, nodes_per_worker=2)
    with pytest.raises(ConfigError, match="nodes_per_worker: 2, but the engine transformers"):
        crew.start(setup())
    crew.close()


@pytest.mark.parametrize("vllm", [None, {"pipeline_parallel_size": 2}])
def test_a_model_is_not_spread_over_more_gpus_than_a_worker_has(
    vllm: dict[str, Any] | None,
) -> None:
    options = {"tensor_parallel_size": 2, "vllm": vllm}
    parts = 4 if vllm else 2
    with pytest.raises(ConfigError, match=rf"per_worker: 1, .* over {parts} .* worker {parts}\."):
        RayExecutor(gpus_per_worker=1).demand("vllm", options)
    RayExecutor(gpus_per_worker=4).demand("vllm", options)
    RayExecutor().demand("vllm", options)  # as many processes on a CPU


def test_what_does_not_fit_on_any_node_is_refused(cluster: Any) -> None:
    crew = RayExecutor(gpus_per_worker=8, cpus_per_worker=5)
    with pytest.raises(InputError, match=r"needs 5 CPUs and 8 GPUs on 1 nodes; .* has 4 CPUs"):
        crew.start(setup())
    crew.close()


def test_another_model_on_a_node_is_refused_file_by_file(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    here, there = hub(tmp_path / "here"), hub(tmp_path / "there")
    shutil.copy(ZOO / "kanji" / "model.safetensors", there / "model.safetensors")
    (there / "tokenizer_config.json").write_text("{}")
    (there / "generation_config.json").unlink()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "here"))
    crew = RayExecutor(runtime_env={"env_vars": {"HF_HUB_CACHE": str(tmp_path / "there")}})
    wanted = replace(setup(), sources={"arithmetic": "zoo/arithmetic"})
    with pytest.raises(InputError) as refused:
        crew.start(wanted)
    crew.close()
    text = "\n".join(refused.value.problems)
    assert len(refused.value.problems) == 3
    assert "generation_config.json: missing there" in text
    assert f"{there} (weights): differs from that on" in text
    assert "tokenizer_config.json: differs from that on" in text
    assert here.is_dir()


def test_other_versions_on_a_node_are_named_all_at_once() -> None:
    here = inspect_machine(setup())
    other = replace(here, versions={**here.versions, "torch": "2.0.0", "lm_eval": "0.4.0"})
    problems = differences(here, other, "node 10.0.0.7")
    assert len(problems) == 2
    assert problems[0].startswith("node 10.0.0.7: has torch 2.0.0, ")
    assert differences(here, here, "node 10.0.0.7") == []


def test_another_fitness_on_a_node_is_not_taken_for_a_model() -> None:
    here = inspect_machine(setup())
    stored = {**here.stored, "fitness": here.stored["fitness"]._replace(digest="f00")}
    (problem,) = differences(here, replace(here, stored=stored), "node 10.0.0.7")
    assert "zoo_skills: differs from that on" in problem
    assert problem.endswith(
        "Copy the fitness and its tasks to that node again, or put them on a shared disk."
    )


def test_what_a_worker_refuses_comes_back_as_the_same_error(cluster: Any) -> None:
    keys = FITNESS.model_dump()
    keys["tasks"]["arithmetic"]["metric"] = "nonsense"
    crew = RayExecutor()
    with pytest.raises(ConfigError, match="nonsense"):
        crew.start(replace(setup(), fitness=Fitness.model_validate(keys)))
    crew.close()


def test_a_source_that_vanishes_stops_the_search(cluster: Any, tmp_path: Path) -> None:
    shutil.copytree(ZOO / "arithmetic", tmp_path / "arithmetic")
    crew = RayExecutor()
    crew.start(replace(setup(threads=1), sources={"arithmetic": str(tmp_path / "arithmetic")}))
    shutil.rmtree(tmp_path / "arithmetic")
    crew.submit(job(0, 0.5, arithmetic=tmp_path / "arithmetic"))
    with pytest.raises(CheckpointError, match="arithmetic"):
        crew.result()
    crew.close()


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


def wait_for(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.05)
