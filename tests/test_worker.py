"""One worker of a run, and recipes that stack other blocks than the run does."""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from evomerge.errors import SearchError
from evomerge.executors.local import LocalExecutor
from evomerge.recipes import Recipe
from evomerge.scoring import Fitness
from evomerge.types import Evaluation, Job
from evomerge.weights.build import build
from evomerge.worker import Worker, WorkerSetup

ROOT = Path(__file__).parents[1]
ZOO = ROOT / "experiments" / "zoo"
OTHER_ORDER = [{"arithmetic": [0, 2]}, {"strings": [3, 4]}, {"arithmetic": [3, 4]}]
SHALLOW = [{"arithmetic": [0, 2]}, {"strings": [3, 4]}]
DEEP = [{"arithmetic": [0, 4]}, {"strings": [2, 4]}]
VLLM = {"threads": 1, "vllm": {"kv_cache_memory_bytes": 1 << 26}}
needs_vllm = pytest.mark.skipif(not importlib.util.find_spec("vllm"), reason="needs vllm")
with_vllm = [needs_vllm, pytest.mark.xdist_group("vllm")]  # whose import takes seconds
MERGED_PATH = [{"base": [0, 3], "merge": [0, 3], "strings": [0, 3]}, {"merge": [3, 4]}]
NESTED_ENGINES = [pytest.param("vllm", VLLM, marks=[*with_vllm, pytest.mark.slow])]
ENGINES = [
    ("transformers", {"threads": 1}, OTHER_ORDER),
    pytest.param("vllm", VLLM, SHALLOW, marks=with_vllm),
]


def recipe(**keys: Any) -> Recipe:
    sources = {name: str(ZOO / name) for name in ("arithmetic", "strings")}
    whole = {"base": str(ZOO / "base"), "sources": sources, "operator": "linear"}
    return Recipe.model_validate({**whole, "dtype": "bfloat16", **keys})


def setup(engine: str, options: dict[str, Any]) -> WorkerSetup:
    task = {"task": "zoo_strings", "search_examples": 16, "held_out_examples": 8}
    path = str(ROOT / "fitness" / "zoo_skills")
    fitness = Fitness.model_validate({"include_path": path, "tasks": {"strings": task}})
    return WorkerSetup(
        composition=recipe(),
        fitness=fitness,
        engine=engine,
        engine_options=options,
    )


def evaluate(worker: Worker, *recipes: Recipe) -> list[Evaluation]:
    try:
        return [worker.evaluate(Job(0, one, "search")) for one in recipes]
    finally:
        worker.close()


@pytest.mark.parametrize(("engine", "options", "blocks"), ENGINES)
def test_a_recipe_of_other_blocks_scores_as_in_a_run_of_them(
    engine: str, options: dict[str, Any], blocks: list[Any]
) -> None:
    run, other = setup(engine, options), recipe(slices=blocks)
    plain, live, again = evaluate(Worker(run), recipe(), other, recipe())
    (own,) = evaluate(Worker(replace(run, composition=other)), other)
    assert live.status == own.status == "done", (live.error, own.error)
    assert live.tasks == own.tasks
    assert again.tasks == plain.tasks != live.tasks


def winner() -> Recipe:
    """The best of an earlier stage."""
    return recipe(operator="task_arithmetic", parameters={"weight": {"arithmetic": 1.25}})


@pytest.mark.parametrize(("engine", "options"), [("transformers", {"threads": 1}), *NESTED_ENGINES])
def test_a_recipe_may_hold_merges_of_the_models_of_the_run(
    engine: str, options: dict[str, Any], tmp_path: Path
) -> None:
    inner, other = winner(), str(ZOO / "strings")
    as_source = recipe(sources={"merge": inner, "strings": other})
    as_base = recipe(base=inner, sources={"strings": other}, operator="task_arithmetic")
    stacked = recipe(base=inner, sources={"merge": inner, "strings": other}, slices=MERGED_PATH)
    worker = Worker(setup(engine, options))
    found = evaluate(worker, recipe(), as_source, as_base, stacked, as_source, recipe())
    assert [one.status for one in found] == ["done"] * 6, [one.error for one in found]
    assert found[4].tasks == found[1].tasks
    assert found[5].tasks == found[0].tasks
    assert len(worker._library._opened) == 3 + 1  # the run's models and the merge, each once
    # the same with the merge as a checkpoint of its own
    folder = str(build(inner, tmp_path / "merge"))

    def built(one: Recipe) -> Recipe:
        sources = {name: folder if model == inner else model for name, model in one.sources.items()}
        base = folder if one.base == inner else one.base
        return one.model_copy(update={"base": base, "sources": sources})

    run = setup(engine, options)
    sources = {**run.composition.sources, "merge": folder}
    run = replace(run, composition=recipe(sources=sources))
    alone = evaluate(Worker(run), built(as_source), built(as_base), built(stacked))
    assert [one.tasks for one in alone] == [one.tasks for one in found[1:4]]


def test_a_recipe_that_holds_other_models_is_refused() -> None:
    kanji = str(ZOO / "kanji")
    other = recipe(sources={"arithmetic": str(ZOO / "arithmetic"), "kanji": kanji})
    foreign = recipe(sources={"merge": other, "strings": str(ZOO / "strings")})
    based = recipe(base=kanji)
    found = evaluate(Worker(setup("transformers", {"threads": 1})), foreign, based)
    assert [one.status for one in found] == ["failed", "failed"]
    for one, label in zip(found, ("a recipe with linear", kanji), strict=True):
        assert one.error is not None
        assert one.error.startswith(f"PlanError: not among the models of this search: {label}")


@needs_vllm
@pytest.mark.xdist_group("vllm")
@pytest.mark.slow
def test_a_candidate_has_not_failed_where_the_machine_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep, executor = Job(0, recipe(slices=DEEP), "search"), LocalExecutor()
    executor.start(setup("vllm", VLLM))
    try:
        with monkeypatch.context() as broken:
            broken.setattr(tempfile, "tempdir", str(tmp_path / "unmounted"))
            executor.submit(deep)
            with pytest.raises(SearchError, match="cannot start again"):
                executor.result()
        executor.submit(deep)
        _, found = executor.result()
        assert found.status == "done", found.error
    finally:
        executor.close()


HUNGRY = """
import torch

def build():
    return torch.nn.Linear(2, 2)

def of_torch(module, split):
    return torch.empty(1 << 50)

def of_python(module, split):
    raise MemoryError

def broken(module, split):
    raise RuntimeError("shapes do not fit")
"""


@pytest.mark.parametrize(
    ("scorer", "exhausted"), [("of_torch", True), ("of_python", True), ("broken", False)]
)
def test_memory_that_ran_out_on_a_cpu_is_known_from_other_failures(
    tmp_path: Path, scorer: str, exhausted: bool
) -> None:
    code = tmp_path / "code.py"
    code.write_text(HUNGRY)
    state = {"weight": torch.eye(2), "bias": torch.zeros(2)}
    save_file(state, tmp_path / "model.safetensors")
    one = recipe(base=str(tmp_path), sources={"a": str(tmp_path)}, dtype="float32")
    fitness = Fitness.model_validate({"tasks": {"x": {"scorer": f"{code}:{scorer}"}}})
    wanted = setup("torch", {"module": f"{code}:build"})
    worker = Worker(replace(wanted, composition=one, fitness=fitness))
    (found,) = evaluate(worker, one)
    assert found.status == "failed"
    assert worker.exhausted is exhausted
