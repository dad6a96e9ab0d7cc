"""What `evomerge check` says of memory and of the budget, in exact figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from small_search import SMALL

from evomerge.config.estimate import estimate
from evomerge.config.load import LoadedSearch, load
from evomerge.config.probe import totals
from evomerge.errors import ConfigError
from evomerge.search.budget import Budget
from evomerge.types import Evaluation, Job
from evomerge.worker import Worker


def loaded(**changes: Any) -> LoadedSearch:
    content = SMALL | {"optimizer": {"name": "random"}, "budget": {"evaluations": 14}}
    return load(content | changes)


@pytest.mark.parametrize(("dtype", "per_element"), [("auto", 4), ("float32", 4), ("bfloat16", 2)])
def test_a_live_model_on_a_cpu_has_the_dtype_of_the_engine(dtype: str, per_element: int) -> None:
    facts = estimate(loaded(engine={"name": "transformers", "device": "cpu", "dtype": dtype}))
    assert facts["weights_bytes_per_worker"] == facts["merged_bytes"] // 2 * per_element
    assert facts["gpus_per_worker"] == 0
    assert facts["fits_here"] == "yes"


def test_workers_that_ray_starts_on_this_machine_share_its_memory() -> None:
    executor = {"name": "ray", "address": "local", "workers": 10_000}
    facts = estimate(loaded(executor=executor))
    needed = 10_000 * facts["weights_bytes_per_worker"]
    assert facts["fits_here"] == f"no: {needed - facts['memory_bytes_here']} bytes too many"
    assert estimate(loaded(executor=executor | {"address": "auto"}))["fits_here"] == "yes"


def test_check_shows_the_whole_budget() -> None:
    executor = {"name": "ray", "gpus_per_worker": 1}
    facts = estimate(loaded(budget={"gpu_hours": 2, "seconds": 9}, executor=executor))
    assert facts["budget"] == {"seconds": 9, "gpu_hours": 2}


@pytest.mark.parametrize(
    ("budget", "candidates"),
    [
        (Budget(evaluations=100), 100),
        (Budget(gpu_hours=1), 715),  # 8 GPUs for 450 seconds: 4 workers do 720 candidates
        (Budget(seconds=45), 67),
        (Budget(evaluations=100, gpu_hours=1, seconds=45), 67),
        (Budget(evaluations=50, gpu_hours=1, seconds=45), 50),
        (Budget(seconds=1), 0),
    ],
)
def test_a_budget_ends_with_the_first_of_its_limits(budget: Budget, candidates: int) -> None:
    found = totals(budget, besides=12.5, seconds=2.5, workers=4, gpus=8, examples=16)
    spent = (candidates + 5) * 2.5 / 4
    assert found == {
        "candidates_for_the_budget": candidates,
        "seconds_for_the_budget": round(spent, 1),
        "gpu_hours_for_the_budget": spent * 8 / 3600,
    }


@pytest.mark.parametrize("executor", [{"name": "local"}, {"name": "ray", "workers": 8}])
def test_gpu_hours_without_a_gpu_are_refused_at_once(executor: dict[str, Any]) -> None:
    one = loaded(budget={"gpu_hours": 1}, executor=executor)
    with pytest.raises(ConfigError, match=r"gpu_hours: 1, but the workers hold no GPU\. Give"):
        estimate(one)


def test_every_stage_with_gpu_hours_is_named_where_there_is_no_gpu() -> None:
    space = {
        "kind": "parameter",
        "operator": "task_arithmetic",
        "parameters": {"weight": {"low": 0, "high": 1.5}},
    }
    budgets = [{"gpu_hours": 1}, {"evaluations": 4}, {"gpu_hours": 2, "evaluations": 4}]
    stages = [{"name": f"s{n}", "space": space, "budget": b} for n, b in enumerate(budgets)]
    one = loaded(stages=stages, space=None, budget=None, optimizer=None)
    with pytest.raises(ConfigError) as caught:
        estimate(one)
    paths = [problem.path for problem in caught.value.details]
    assert paths == [("stages", name, "budget", "gpu_hours") for name in ("s0", "s2")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="times on a GPU")
def test_a_candidate_timed_without_the_gpus_of_the_workers_says_so() -> None:
    facts = estimate(loaded(executor={"name": "ray", "gpus_per_worker": 1}), probe=True)
    assert facts["timed_on"] == "a CPU, while the workers have GPUs"
    assert "timed_on" not in estimate(loaded(), probe=True)


def test_the_timed_candidate_of_a_crossover_is_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    merged: list[Any] = []
    evaluate_all = Worker.evaluate_all

    def watch(worker: Worker, jobs: Sequence[Job]) -> list[Evaluation]:
        merged.extend(job.recipe for job in jobs)
        return evaluate_all(worker, jobs)

    monkeypatch.setattr(Worker, "evaluate_all", watch)
    facts = estimate(loaded(space={"kind": "crossover"}, optimizer={"name": "m2n2"}), probe=True)
    assert facts["candidates_for_the_budget"] == 14
    (recipe,) = merged
    assert recipe.segments is not None
    assert list(recipe.segments.rows) == [(0.75, 0.25), (0.25, 0.75)]


def test_check_shows_the_start_and_the_largest_stack() -> None:
    block, around = 213_248, 125_568
    facts = estimate(loaded(space={"kind": "dataflow", "max_layers": 7}))
    assert facts["start"] == {"layers": 4, "parameters": around + 4 * block}
    assert facts["largest_stack"] == {"layers": 7, "parameters": around + 7 * block}
    assert facts["weights_bytes_per_worker"] == 4 * (around + 7 * block)
    assert "start" not in estimate(loaded())
