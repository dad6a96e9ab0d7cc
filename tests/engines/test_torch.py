"""Modules of a person's own, loaded and asked by functions of the person's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.engines.torch import TorchEngine
from evomerge.errors import CandidateError, ConfigError, PlanError
from evomerge.plugins.user_code import load_function
from evomerge.recipes import Recipe
from evomerge.weights.build import build
from evomerge.weights.library import Library
from evomerge.weights.plan import make_plan

MODULE = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))

def tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    return model

def same_memory():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight.data = model[0].weight.data
    return model

def keeps_more():
    class Keeps(nn.Linear):
        def get_extra_state(self):
            return {"version": 2}
    return Keeps(3, 3)

def unshaped():
    return nn.LazyLinear(3)

def transposed():
    model = build()
    model[0].weight = nn.Parameter(torch.zeros(3, 4).T)
    return model

def by_value():
    model = build()
    return model if model[0].weight.sum().item() < 99 else None

def fails():
    raise OSError("no disk")

def part_of_another():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].bias.data = model[0].weight.data[0]
    return model

def other():
    return 3

def needs(size):
    return nn.Linear(size, size)
"""
PARTS = {"weight": (3, 3), "bias": (3,)}
X = torch.arange(15.0).reshape(5, 3) / 7


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "code.py"
    path.write_text(MODULE)
    return path


Source = Callable[[int], Path]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Folders with the weights of what `build` makes, and nothing else."""

    def make(seed: int) -> Path:
        folder = tmp_path / f"source-{seed}"
        folder.mkdir(exist_ok=True)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = torch.nn.Sequential(
                *(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)),
                *(torch.nn.ReLU(), torch.nn.Linear(4, 2)),
            )
            model(torch.randn(9, 3) * (1 + seed))  # running statistics of its own
            for _ in range(seed):
                model(torch.randn(9, 3))
        save_file(model.state_dict(), folder / "model.safetensors")
        return folder

    return make


def recipe(base: Path, *sources: Path, dtype: str = "float32", **parameters: Any) -> Recipe:
    named = {f"s{number}": str(folder) for number, folder in enumerate(sources)}
    keys = {"base": str(base), "sources": named, "operator": "task_arithmetic", "dtype": dtype}
    return Recipe.model_validate({**keys, "parameters": parameters})


def answers(engine: TorchEngine) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = engine.module(X)
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_loaded_plan_answers_exactly_as_the_checkpoint_built_from_it(
    code: Path, source: Source, tmp_path: Path, dtype: str
) -> None:
    pool = [source(seed) for seed in range(3)]
    models = Library().open(str(pool[0]), {"s0": str(pool[1]), "s1": str(pool[2])})
    engine = TorchEngine(module=f"{code}:build")
    engine.open(models)
    seen = []
    for number, weight in enumerate((0.5, 1.0, 0.5)):
        one = recipe(*pool, dtype=dtype, weight={"s0": weight, "s1": 0.25})
        engine.load(make_plan(one, models))
        seen.append(answers(engine))
        state = load_file(build(one, tmp_path / str(number)) / "model.safetensors")
        assert {t.dtype for t in state.values()} == {getattr(torch, dtype), torch.int64}
        module = load_function(f"{code}:build")()
        module.load_state_dict(state)
        with torch.no_grad():
            assert torch.equal(seen[-1], module.eval()(X))
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_what_is_built_holds_the_weights_and_the_config_if_there_is_one(
    source: Source, tmp_path: Path
) -> None:
    base, other = source(0), source(1)
    one = recipe(base, other, weight=0.5)
    assert {f.name for f in build(one, tmp_path / "a").iterdir()} == {
        "model.safetensors",
        "README.md",
    }
    assert "transformers" not in (tmp_path / "a" / "README.md").read_text()
    (base / "config.json").write_text('{"width": 4}\n')
    assert (build(one, tmp_path / "b") / "config.json").read_text() == '{"width": 4}\n'
    # and such a recipe can stand in the place of a model
    nested = Recipe.model_validate({**recipe(base, other).model_dump(), "base": one})
    assert (build(nested, tmp_path / "c") / "config.json").exists()


def test_counted_batches_are_those_of_the_base(source: Source, tmp_path: Path) -> None:
    name = "1.num_batches_tracked"
    state = load_file(build(recipe(source(0), source(3)), tmp_path / "a") / "model.safetensors")
    assert state[name] == load_file(source(0) / "model.safetensors")[name] == 1


def test_parameters_that_are_one_are_loaded_as_one(code: Path, tmp_path: Path) -> None:
    weight = torch.eye(3)
    for name, both in (("one", False), ("both", True)):
        (tmp_path / name).mkdir()
        state = {"0.weight": weight, "0.bias": torch.ones(3), "1.bias": torch.zeros(3)}
        state |= {"1.weight": weight.clone()} if both else {}
        save_file(state, tmp_path / name / "model.safetensors")
        folder = str(tmp_path / name)
        models = Library().open(folder, {"s0": folder})
        engine = TorchEngine(module=f"{code}:tied")
        engine.open(models)
        engine.load(make_plan(recipe(tmp_path / name, tmp_path / name), models))
        assert torch.equal(answers(engine), X + 1)


def test_parameters_that_are_not_contiguous_are_filled_too(code: Path, source: Source) -> None:
    models = Library().open(str(source(0)), {"s0": str(source(1))})
    plan = make_plan(recipe(source(0), source(1)), models)
    engines = [TorchEngine(module=f"{code}:{name}") for name in ("build", "transposed")]
    for engine in engines:
        engine.open(models)
        engine.load(plan)
    assert torch.equal(answers(engines[0]), answers(engines[1]))


@pytest.mark.parametrize("at_once", [1, 2])
def test_state_that_is_no_tensor_is_the_module_s_own(
    code: Path, tmp_path: Path, at_once: int
) -> None:
    save_file({"weight": torch.eye(3), "bias": torch.ones(3)}, tmp_path / "model.safetensors")
    models = Library().open(str(tmp_path), {"s0": str(tmp_path)})
    engine = TorchEngine(module=f"{code}:keeps_more", at_once=at_once)
    plan = make_plan(recipe(tmp_path, tmp_path), models)
    engine.validate(plan)
    engine.open(models)
    engine.load(plan)
    assert torch.equal(answers(engine), X + 1)


def test_a_failed_load_is_forgotten_by_the_next(code: Path, source: Source) -> None:
    models = Library().open(str(source(0)), {"s0": str(source(1))})
    engine = TorchEngine(module=f"{code}:build")
    engine.open(models)
    good = make_plan(recipe(source(0), source(1)), models)
    engine.load(good)
    before = answers(engine)
    with pytest.raises(CandidateError):
        engine.load(make_plan(recipe(source(0), source(1), dtype="float16", weight=1e30), models))
    engine.module.train()
    engine.load(good)
    assert torch.equal(answers(engine), before)


@pytest.mark.parametrize("name", ["build", "transposed"])
def test_candidates_side_by_side_answer_as_each_alone(
    code: Path, source: Source, name: str
) -> None:
    pool = [source(seed) for seed in range(3)]
    models = Library().open(str(pool[0]), {"s0": str(pool[1]), "s1": str(pool[2])})
    plans = [make_plan(recipe(*pool, weight={"s0": w, "s1": 0.5}), models) for w in (0, 1, 2, 3)]
    alone, engine = (TorchEngine(module=f"{code}:{name}", at_once=count) for count in (1, 4))
    alone.open(models)
    engine.open(models)
    for slot, plan in reversed(list(enumerate(plans))):
        engine.load_at(slot, plan)
    with torch.no_grad():
        together = engine.for_all_slots(lambda module: module(X))
    for slot, plan in enumerate(plans):
        alone.load(plan)
        engine.select_slot(slot)
        assert torch.equal(answers(engine), answers(alone))
        torch.testing.assert_close(together[slot], answers(alone))
    # filling a slot again leaves the others as they are
    before = answers(engine)
    engine.load(plans[1])
    assert not torch.equal(answers(engine), before)
    engine.select_slot(3)
    assert torch.equal(answers(engine), before)


@pytest.mark.parametrize("name", ["tied", "same_memory"])
def test_parameters_that_are_one_are_one_in_every_slot(
    code: Path, tmp_path: Path, name: str
) -> None:
    state = {"0.weight": torch.eye(3), "0.bias": torch.ones(3), "1.bias": torch.zeros(3)}
    save_file(state, tmp_path / "model.safetensors")
    models = Library().open(str(tmp_path), {"s0": str(tmp_path)})
    engine = TorchEngine(module=f"{code}:{name}", at_once=2)
    engine.open(models)
    engine.load_at(1, make_plan(recipe(tmp_path, tmp_path), models))
    engine.select_slot(1)
    assert torch.equal(answers(engine), X + 1)
    engine.select_slot(0)
    with torch.no_grad():
        assert torch.equal(engine.for_all_slots(lambda module: module(X))[1], X + 1)


def test_a_tensor_within_another_has_no_slots(code: Path, tmp_path: Path) -> None:
    state = {f"{n}.{part}": torch.ones(shape) for n in (0, 1) for part, shape in PARTS.items()}
    save_file(state, tmp_path / "model.safetensors")
    models = Library().open(str(tmp_path), {"s0": str(tmp_path)})
    TorchEngine(module=f"{code}:part_of_another").open(models)
    with pytest.raises(ConfigError, match=r"engine.at_once: some tensors of the module are parts"):
        TorchEngine(module=f"{code}:part_of_another", at_once=2).open(models)


def test_opening_leaves_the_global_generators_alone(code: Path, source: Source) -> None:
    before = torch.get_rng_state()
    TorchEngine(module=f"{code}:build").open(Library().open(str(source(0)), {"s0": str(source(1))}))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_closed_engine_has_no_module(code: Path, source: Source) -> None:
    engine = TorchEngine(module=f"{code}:build")
    engine.open(Library().open(str(source(0)), {"s0": str(source(1))}))
    engine.close()
    with pytest.raises(RuntimeError, match="not open"):
        _ = engine.module


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("{code}", "expected path.py:function, got '{code}'"),
        ("{code}.py:build", "{code}.py: no such file"),
        ("{code}:biuld", "{code}: has no function 'biuld'. Did you mean 'build'?"),
        ("{code}:needs", "{code}: needs must take (): missing a required argument: 'size'"),
    ],
)
def test_a_module_that_nothing_makes_is_refused_before_anything_is_opened(
    code: Path, reference: str, problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        TorchEngine(module=reference.format(code=code))
    assert caught.value.problems == (f"engine.module: {problem.format(code=code)}",)


def test_a_file_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nonesuch")
    with pytest.raises(ConfigError, match=r"broken.py: cannot be run: ModuleNotFoundError: No mod"):
        TorchEngine(module=f"{tmp_path / 'broken.py'}:build")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("fails", "code.py:fails failed: OSError: no disk"),
        ("other", "code.py:other must return a torch.nn.Module, got int"),
        ("unshaped", "code.py:unshaped: weight has no shape before the first call. Call the modul"),
    ],
)
def test_a_function_that_makes_no_module_is_reported_when_plans_are_checked(
    code: Path, source: Source, name: str, problem: str
) -> None:
    models = Library().open(str(source(0)), {"s0": str(source(1))})
    engine = TorchEngine(module=f"{code}:{name}")
    with pytest.raises(ConfigError, match=problem):
        engine.validate(make_plan(recipe(source(0), source(1)), models))
    with pytest.raises(ConfigError, match=problem):
        engine.open(models)


def test_all_tensors_that_do_not_fit_are_reported_at_once_and_before_opening(
    code: Path, source: Source, tmp_path: Path
) -> None:
    state = load_file(source(0) / "model.safetensors")
    state["0.weight"] = torch.zeros(4, 5)
    state["0.scale"] = torch.zeros(4)
    del state["3.bias"]
    (tmp_path / "odd").mkdir()
    save_file(state, tmp_path / "odd" / "model.safetensors")
    odd = str(tmp_path / "odd")
    models = Library().open(odd, {"s0": odd})
    with pytest.raises(PlanError) as caught:
        TorchEngine(module=f"{code}:build").validate(
            make_plan(recipe(Path(odd), Path(odd)), models)
        )
    assert caught.value.problems == (
        f"{odd}: 1 tensors, 0.scale first, are not parts of Sequential. Build the module "
        "that the weights are of.",
        f"{odd}: 0.weight is (4, 5), but (4, 3) by code.py:build. Build the module that the "
        "weights are of.",
        f"{odd}: the checkpoint lacks 1 tensors of Sequential, 3.bias first.",
    )


def test_a_module_that_needs_values_to_be_made_is_checked_too(code: Path, source: Source) -> None:
    models = Library().open(str(source(0)), {"s0": str(source(1))})
    plan = make_plan(recipe(source(0), source(1)), models)
    TorchEngine(module=f"{code}:by_value").validate(plan)


def test_the_settings_of_a_run_know_the_content_of_the_file(code: Path, source: Source) -> None:
    models = Library().open(str(source(0)), {"s0": str(source(1))})
    first = TorchEngine(module=f"{code}:build").identity(models)
    code.write_text(MODULE + "\n")
    assert TorchEngine(module=f"{code}:build").identity(models) != first
