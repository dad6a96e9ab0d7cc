"""Whole searches among PyTorch modules: the classifiers of experiments/m2n2_digits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.analysis.evaluate import evaluate
from evomerge.analysis.export import lm_eval_commands
from evomerge.analysis.run import Run
from evomerge.config.estimate import estimate
from evomerge.config.load import LoadedSearch, load
from evomerge.engines.torch import TorchEngine
from evomerge.engines.transformers import TransformersEngine
from evomerge.engines.vllm import VllmEngine
from evomerge.errors import ConfigError, RunError, SearchError
from evomerge.executors import Executor
from evomerge.executors._inspection import inspect_machine
from evomerge.executors.ray import RayExecutor
from evomerge.recipes import Recipe
from evomerge.scoring import Fitness
from evomerge.scoring.scorer import check_served
from evomerge.search.run import resume, start
from evomerge.store import Store
from evomerge.types import Evaluation, Job
from evomerge.weights.build import build
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.library import read_recipe
from evomerge.worker import Worker
from evomerge.yaml_files import parse_yaml

DIGITS = Path(__file__).parents[2] / "experiments" / "m2n2_digits"
ZOO = DIGITS.parent / "zoo"
SCORERS = """
import torch

def size(module, split):
    return [sum(p.numel() for p in module.parameters()) / 1e6]

def undecided(module, split):
    scores = next(module.parameters()).flatten()[:4].abs() * 1e5
    return torch.where(scores.sum() > 0, scores, torch.nan)

def moody(module, split, calls=[]):
    calls.append(1)
    score = next(module.parameters()).abs().mean().item()
    if len(calls) == 9:
        raise ValueError("in no mood")
    odd = {6: ["0.5"] * 4, 7: None, 8: [score] * 3}
    return odd.get(len(calls), [score] * 4)

def always(module, split):
    return None
"""
Search = Callable[..., Path]


@pytest.fixture
def search(tmp_path: Path) -> Search:
    """A copy of the experiment with a small budget."""
    shutil.copytree(DIGITS, tmp_path / "digits", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "digits" / "scorers.py").write_text(SCORERS)

    def make(**keys: Any) -> Path:
        path = tmp_path / "digits" / "search.yaml"
        content = yaml.safe_load((DIGITS / "search.yaml").read_text())
        path.write_text(yaml.safe_dump({**content, "budget": {"evaluations": 12}, **keys}))
        return path

    return make


def found(loaded: LoadedSearch, folder: Path) -> list[tuple[str, Evaluation | None]]:
    """Every candidate's genes and scores, times left out."""
    start(loaded.search, folder, lambda progress: None)
    with Store.open(folder, read_only=True) as store:
        return [
            (json.dumps(dict(c.genome.genes)), e and Evaluation(e.status, e.tasks, value=e.value))
            for c in store.candidates()
            for e in [store.evaluation(c.recipe.digest)]
        ]


def test_classifiers_that_know_half_of_the_digits_are_bred(search: Search, tmp_path: Path) -> None:
    loaded = load(search())
    assert loaded.models.layers == 0
    folder = tmp_path / "run"
    assert len(found(loaded, folder)) == 3 + 12
    run = Run.open(folder)
    low, high, average = run.baselines
    assert low.search and high.search and average.search and average.held_out and run.best
    assert low.search.examples == 1437
    assert average.held_out.examples == 360
    assert max(low.search.value, high.search.value) < 0.52
    assert run.best.search and run.best.search.value > 0.6
    assert lm_eval_commands(run) == []
    # what was found is a folder with weights, which scores the same
    (folder / "recipe.yaml").write_text(run.export())
    out = build(read_recipe(folder / "recipe.yaml"), tmp_path / "best")
    assert set(Checkpoint(out).tensors) == set(loaded.models.base.tensors)
    (tmp_path / "fitness.yaml").write_text("tasks: {digits: {scorer: 'digits/digits.py:accuracy'}}")
    engine = f"{{name: torch, module: '{tmp_path}/digits/digits.py:build'}}"
    again = evaluate(out, tmp_path / "fitness.yaml", engine=engine)
    assert again.value == run.best.search.value


def test_side_by_side_or_one_by_one_the_search_is_the_same(search: Search, tmp_path: Path) -> None:
    # without a word on it, as many are asked for as the engine holds
    ways: list[tuple[int, Any]] = [(1, {"name": "local", "lookahead": 4}), (4, "local")]
    runs = []
    for at_once, executor in ways:
        engine = {"name": "torch", "module": "digits.py:build", "at_once": at_once}
        optimizer = {"name": "m2n2", "lag": 4}
        loaded = load(search(optimizer=optimizer, executor=executor, engine=engine))
        runs.append(found(loaded, tmp_path / str(at_once)))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_candidate_that_fails_leaves_those_beside_it_alone(search: Search, at_once: int) -> None:
    engine = {"name": "torch", "module": "digits.py:build", "at_once": at_once}
    tasks = {"size": {"scorer": "scorers.py:size"}, "x": {"scorer": "scorers.py:undecided"}}
    setup = load(search(engine=engine, fitness={"tasks": tasks})).search.setup
    worker = Worker(setup)
    models = setup.composition
    context = {"base": models.base, "sources": models.sources, "operator": "linear"}
    jobs = []
    for number, weight in enumerate((1.0, 1e-9, 1e30, 0.5, 1.0, 0.0)):  # float16 has no 1e-9
        parameters = {"weight": weight, "normalize": False}
        keys = {**context, "dtype": "float16", "parameters": parameters}
        jobs.append(Job(number, Recipe.model_validate(keys), "search"))
    results = []
    for first in range(0, len(jobs), at_once):
        results += worker.evaluate_all(jobs[first : first + at_once])
    assert [r.status for r in results] == ["done", "failed", "failed", "done", "done", "failed"]
    assert results[1].error == (
        "CandidateError: tasks.x: scorers.py:undecided: expected one score an example, (E,), got 4 "
        "of 4 that are not finite"
    )
    assert "float16 cannot hold" in str(results[2].error)
    assert "PlanError: parameters.weight: 0 for all sources" in str(results[5].error)
    assert list(results[0].tasks) == ["size", "x"]
    assert results[0].tasks["size"].example_scores == (0.01921,)
    assert results[0].tasks["x"].score > results[3].tasks["x"].score > 0
    assert results[4].tasks == results[0].tasks


def test_a_search_outlives_what_a_scorer_gives_for_some(search: Search, tmp_path: Path) -> None:
    tasks = {"x": {"scorer": "scorers.py:moody"}}
    loaded, folder = load(search(fitness={"tasks": tasks})), tmp_path / "run"
    assert len(found(loaded, folder)) == 3 + 12
    where = "CandidateError: tasks.x: scorers.py:moody:"
    each = f"{where} expected one score an example, (E,), as numbers, got"
    with Store.open(folder, read_only=True) as store:
        every = [store.evaluation(c.recipe.digest) for c in store.candidates()]
    assert [e.error for e in every if e and e.status == "failed"] == [
        f"{each} list ['0.5', '0.5', '0.5', '0.5']",
        f"{each} NoneType None",
        f"{where} expected 4 scores, as of the model before, got 3. Give one for every example, "
        "and the same examples for every model.",
        f"{where} failed: ValueError: in no mood",
    ]


def test_a_scorer_that_scores_nothing_ends_the_run_with_the_baselines(
    search: Search, tmp_path: Path
) -> None:
    loaded = load(search(fitness={"tasks": {"x": {"scorer": "scorers.py:always"}}}))
    said = (
        r"^the first 3 candidates all failed: CandidateError: tasks.x: scorers.py:always: expected "
        r"one score an example, \(E,\), as numbers, got NoneType None$"
    )
    with pytest.raises(SearchError, match=said):
        start(loaded.search, tmp_path / "run", lambda progress: None)
    with Store.open(tmp_path / "run", read_only=True) as store:
        assert len(store.candidates()) == 3


def test_language_models_take_scorers_beside_tasks_of_lm_eval(search: Search) -> None:
    one = {"task": "zoo_strings", "search_examples": 8, "held_out_examples": 8}
    keys: dict[str, Any] = {"engine": {"name": "transformers", "threads": 1}}
    keys |= {"base": str(ZOO / "base"), "sources": {"strings": str(ZOO / "strings")}}
    keys |= {"space": "task_arithmetic", "optimizer": "random"}
    tasks = {"small": {"scorer": "scorers.py:size"}, "strings": one}
    path = str(ZOO.parents[1] / "fitness" / "zoo_skills")
    loaded = load(search(**keys, fitness={"tasks": tasks, "include_path": path}))
    worker = Worker(loaded.search.setup)
    recipe = loaded.search.stages[0].space.decode(loaded.search.stages[0].space.initial())
    for split in ("search", "held_out"):
        evaluation = worker.evaluate(Job(0, recipe, split))
        assert list(evaluation.tasks) == ["small", "strings"]
        assert len(evaluation.tasks["strings"].example_scores) == 8
    worker.close()


def test_what_an_engine_cannot_answer_is_refused_by_name() -> None:
    both = Fitness.model_validate(
        {"tasks": {"a": {"task": "zoo_strings"}, "b": {"scorer": "a.py:f"}}}
    )
    check_served(both, TransformersEngine, "transformers")
    with pytest.raises(ConfigError) as caught:
        check_served(both, VllmEngine, "vllm")
    assert caught.value.problems == (
        "tasks.b: the engine vllm has no module for a scorer. Take engine: transformers, or torch.",
    )
    with pytest.raises(ConfigError) as caught:
        check_served(both, TorchEngine, "torch")
    assert caught.value.problems == (
        "tasks.a: lm-eval cannot ask the engine torch, which is no language model. Give it a "
        "scorer, or take engine: transformers.",
    )


def test_all_that_is_wrong_with_modules_and_scorers_is_reported_at_once(search: Search) -> None:
    wrong = {"a": {"scorer": "digits.py:accuracie"}, "b": {"scorer": "nowhere.py:f"}}
    path = search(engine={"name": "torch", "module": "digits.py:biuld"}, fitness={"tasks": wrong})
    with pytest.raises(ConfigError) as caught:
        load(path)
    folder = path.parent
    assert caught.value.problems == (
        f"{path}: fitness.tasks.a.scorer: {folder}/digits.py: has no function 'accuracie'. Did "
        "you mean 'accuracy'?",
        f"{path}: fitness.tasks.b.scorer: {folder}/nowhere.py: no such file",
        f"{path}: engine.module: {folder}/digits.py: has no function 'biuld'. Did you mean "
        "'build'?",
    )


def test_a_module_that_the_weights_do_not_fit_is_reported_by_check(search: Search) -> None:
    path = search(engine={"name": "torch", "module": "other.py:build"})
    (path.parent / "other.py").write_text("import torch\nbuild = lambda: torch.nn.Linear(2, 2)\n")
    with pytest.raises(ConfigError, match=r"4 tensors, layer1.matrix first, are not parts of Lin"):
        load(path)


def test_weights_without_a_config_are_for_modules_of_ones_own(search: Search) -> None:
    with pytest.raises(ConfigError, match=r"low: Transformers cannot build .* use engine: torch"):
        load(search(engine="transformers"))


def test_a_module_that_cannot_be_made_is_a_problem_of_the_engine(search: Search) -> None:
    path = search(engine={"name": "torch", "module": "broken.py:build"})
    code = path.parent / "broken.py"
    code.write_text("def build():\n    raise RuntimeError('no data')\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert caught.value.problems == (
        f"{path}: engine.module: {code}:build failed: RuntimeError: no data",
    )


def beside(path: Path, text: str) -> None:
    """A file that the module's file imports."""
    (path.parent / "beside.py").write_text(text)
    code = path.parent / "digits.py"
    if "import beside" not in code.read_text():
        code.write_text(f"{code.read_text()}\nimport beside\n")


@pytest.mark.parametrize("changed", ["digits.py", "beside.py"])
def test_a_run_goes_on_only_with_the_code_that_it_began_with(
    search: Search, tmp_path: Path, changed: str
) -> None:
    path, folder = search(), tmp_path / "run"
    beside(path, "")
    found(load(path), folder)
    with Store.open(folder, read_only=True) as store:
        text = store.run().search_yaml
    resume(load(parse_yaml(text, "run")).search, folder, lambda progress: None)
    with (path.parent / changed).open("a") as stream:
        stream.write("# changed\n")
    with pytest.raises(RunError) as refused:
        resume(load(parse_yaml(text, "run")).search, folder, lambda progress: None)
    file = path.parent / changed
    places = [problem.partition(": has changed since")[0] for problem in refused.value.problems]
    assert f"engine: {file}" in places
    assert set(places) <= {f"engine: {file}", f"fitness: {file}"}


def test_where_the_code_lies_is_no_part_of_a_run(search: Search, tmp_path: Path) -> None:
    path = search()
    first = load(path).search.record
    shutil.copytree(path.parent, tmp_path / "moved")
    moved = load(tmp_path / "moved" / path.name).search.record
    assert moved.search_yaml != first.search_yaml
    assert moved.settings_digest == first.settings_digest
    assert moved.fitness_digest == first.fitness_digest


def test_machines_are_compared_by_the_code_too(search: Search) -> None:
    path = search()
    beside(path, "")
    before = inspect_machine(load(path).search.setup)
    assert before.problems == ()
    assert before.stored["engine digits.py"].path == str(path.parent / "digits.py")
    beside(path, "# changed\n")
    after = inspect_machine(load(path).search.setup)
    differing = [name for name in before.stored if before.stored[name] != after.stored[name]]
    assert differing == ["fitness", "engine beside.py"]


def test_several_at_once_are_for_the_local_executor(search: Search) -> None:
    engine = {"name": "torch", "module": "digits.py:build", "at_once": 2}
    said = r"engine.at_once: workers on Ray evaluate one candidate"
    setup = load(search(engine=engine)).search.setup
    executor: Executor = RayExecutor()
    with pytest.raises(ConfigError, match=said):
        executor.validate(setup.new_engine())
    with pytest.raises(ConfigError, match=said):  # on a laptop, before there is a cluster
        load(search(engine=engine, executor="ray"))


def test_what_scorers_will_ask_is_not_known_before(search: Search) -> None:
    facts = estimate(load(search()), probe=True)
    assert facts["search_examples"] == {"digits": "as its scorer says"}
    assert facts["merged_bytes"] == 19210 * 4
    assert facts["layers"] == 0
    assert facts["examples_to_answer"] == "as many as the scorers say"
    assert facts["candidates_for_the_budget"] == 12
