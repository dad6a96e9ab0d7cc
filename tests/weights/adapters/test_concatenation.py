"""Several adapters as one, against the dense merge of the same recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.errors import CandidateError, CheckpointError
from evomerge.recipes import Recipe
from evomerge.weights.adapters.concatenation import (
    concatenate,
    modules_of,
    plan_problems,
    rank_of,
    write_adapter,
)
from evomerge.weights.library import Library
from evomerge.weights.merge import merge
from evomerge.weights.plan import make_plan

Tiny = Callable[..., Path]
Made = Callable[..., Path]
RSLORA: dict[str, Any] = {"r": 2, "use_rslora": True, "target_modules": ["q_proj", "up_proj"]}


def recipe(base: Path, sources: dict[str, Path], **keys: Any) -> Recipe:
    named = {name: str(path) for name, path in sources.items()}
    settings = {"operator": "task_arithmetic", "dtype": "float32", **keys}
    return Recipe.model_validate({"base": str(base), "sources": named, **settings})


@pytest.mark.parametrize(
    ("operator", "parameters"),
    [
        ("task_arithmetic", {"weight": {"a": 0.9, "b": -0.6}, "lam": 1.3}),
        ("task_arithmetic", {"weight": {"a": [0.1, -0.2, 0.3], "b": {"mlp": 0.0, "other": -1.0}}}),
        ("task_arithmetic", {"weight": {"a": 0.5, "b": -2.0}, "normalize": True}),
        ("linear", {"weight": {"a": 3.0, "b": 1.0}}),
        ("linear", {"weight": {"a": 1.4, "b": -0.4}, "normalize": False}),
    ],
)
def test_one_adapter_is_the_dense_merge(
    tiny: Tiny, made: Made, tmp_path: Path, operator: str, parameters: dict[str, Any]
) -> None:
    sources = {"a": made(tiny()), "b": made(tiny(), 2, **RSLORA)}
    plan = Library().plan(recipe(tiny(), sources, operator=operator, parameters=parameters))
    assert plan_problems(plan) == []
    write_adapter(concatenate(plan), tmp_path / "sum")
    one = recipe(tiny(), {"sum": tmp_path / "sum"}, operator="linear")
    found = dict(merge(Library().plan(one)))
    for name, tensor in merge(plan):
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-6)
    assert rank_of(plan.models) == 6
    assert modules_of(plan.models) == ["down_proj", "q_proj", "up_proj"]


def test_layers_of_weight_zero_are_left_out(tiny: Tiny, made: Made) -> None:
    sources = {"a": made(tiny())}
    weight = {"mlp": 1.0, "other": 0.0}
    factors = concatenate(Library().plan(recipe(tiny(), sources, parameters={"weight": weight})))
    assert [name.rpartition(".")[2] for name in factors] == ["down_proj"] * 3
    assert concatenate(Library().plan(recipe(tiny(), sources, parameters={"weight": 0.0}))) == {}
    assert concatenate(Library().plan(recipe(tiny(), {"base": tiny()}))) == {}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"operator": "ties"}, "operator: ties adds up no adapters"),
        ({"parameters": {"sparsify_density": 0.5}}, "parameters.sparsify_density: changes more"),
        ({"parameters": {"lines_alpha": 0.5}}, "parameters.lines_alpha: changes more"),
        ({"slices": [{"a": [0, 1]}, {"a": [1, 3]}]}, "slices: adapters stay in their blocks"),
    ],
)
def test_a_recipe_that_is_no_sum_of_adapters_is_reported(
    tiny: Tiny, made: Made, keys: dict[str, Any], said: str
) -> None:
    (problem,) = plan_problems(Library().plan(recipe(tiny(), {"a": made(tiny())}, **keys)))
    assert problem.startswith(said)


def test_sources_that_are_no_plain_adapters_are_all_reported(tiny: Tiny, made: Made) -> None:
    sources = {
        "model": tiny(1),
        "dora": made(tiny(), use_dora=True),
        "saved": made(tiny(), modules_to_save=["lm_head"]),
        "table": made(tiny(), target_modules=["lm_head"]),
        "good": made(tiny()),
    }
    found = plan_problems(Library().plan(recipe(tiny(), sources)))
    assert [problem.partition(":")[0] for problem in found] == ["model", "dora", "saved", "table"]


def test_weights_that_scale_the_base_are_the_candidates_fault(tiny: Tiny, made: Made) -> None:
    parameters = {"weight": 0.7, "normalize": False}
    plan = Library().plan(
        recipe(tiny(), {"a": made(tiny())}, operator="linear", parameters=parameters)
    )
    with pytest.raises(CandidateError, match=r"add up to 0.7, which scales the base"):
        concatenate(plan)


def test_nan_names_its_file_and_what_overflows_its_tensor(tiny: Tiny, made: Made) -> None:
    adapter = made(tiny())
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    models = Library().open(str(tiny()), {"a": str(adapter)})
    loud = recipe(tiny(), {"a": adapter}, parameters={"weight": 1e38, "lam": 1e38})
    with pytest.raises(CandidateError, match="more than float32 can hold"):
        concatenate(make_plan(loud, models))
    tensors[next(iter(tensors))][0, 0] = float("nan")
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"adapter_model.safetensors: tensor .* holds 1 NaN"):
        concatenate(Library().plan(recipe(tiny(), {"a": adapter})))
