from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.errors import ConfigError, PlanError
from evomerge.recipes import Recipe
from evomerge.weights.library import Library
from evomerge.weights.merge import merge
from evomerge.weights.output.writer import Spec, write_weights
from evomerge.weights.plan import Plan
from evomerge.weights.steps import Step

Tiny = Callable[..., Path]


def planned(
    tiny: Tiny, operator: str = "ties", sources: int = 2, dtype: str = "bfloat16", **parameters: Any
) -> Plan:
    recipe = Recipe.model_validate(
        {
            "base": str(tiny()),
            "sources": {f"s{number}": str(tiny(number)) for number in range(1, sources + 1)},
            **{"operator": operator, "parameters": parameters, "dtype": dtype},
        }
    )
    return Library().plan(recipe)


def step(plan: Plan, name: str) -> Step:
    return next(step for step in plan.steps if step.slot.name == name)


def test_a_plan_says_shape_dtype_and_bytes(tiny: Tiny) -> None:
    plan = planned(tiny)
    up = step(plan, "model.layers.1.mlp.up_proj.weight")
    assert up.slot.shape == (64, 32)
    assert up.dtype == torch.bfloat16
    assert up.nbytes == 64 * 32 * 2
    assert plan.nbytes == 2 * plan.models.base.parameter_count


def test_one_file_of_a_merge_holds_the_bytes_that_safetensors_writes(
    tiny: Tiny, changed: Callable[..., Path], tmp_path: Path
) -> None:
    """Wide dtypes come first, so that no tensor lies askew in the mapped file."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors |= {"a.flags": torch.tensor([True, False, True]), "z.ids": torch.arange(3)}

    folders = [changed(tiny(seed, dtype="bfloat16"), change) for seed in (0, 1)]
    base, source = map(str, folders)
    recipe = Recipe(base=base, sources={"a": source}, operator="linear", dtype="bfloat16")
    plan = Library().plan(recipe)
    specs = [Spec(step.slot.name, step.slot.shape, step.dtype) for step in plan.steps]
    write_weights(tmp_path, specs, merge(plan))
    # the one source, which safetensors itself wrote
    expected = (folders[1] / "model.safetensors").read_bytes()
    assert (tmp_path / "model.safetensors").read_bytes() == expected


def test_settings_reach_exactly_their_source_role_and_layer(tiny: Tiny) -> None:
    weight = {
        "s1": {"mlp": [1.0, 2.0, 3.0], "embedding": [4.0, 5.0, 6.0], "other": 0.0},
        "s2": [7.0, 8.0, 9.0],
    }
    expected = {
        "model.layers.0.mlp.up_proj.weight": (1.0, 7.0),
        "model.layers.2.mlp.down_proj.weight": (3.0, 9.0),
        "model.layers.1.self_attn.q_proj.weight": (0.0, 8.0),
        "model.layers.1.input_layernorm.weight": (0.0, 8.0),
        # outside the blocks the first value of a list counts
        "model.embed_tokens.weight": (4.0, 7.0),
        "model.norm.weight": (0.0, 7.0),
        "lm_head.weight": (0.0, 7.0),
    }
    plan = planned(tiny, weight=weight)
    assert {name: step(plan, name).per_source["weight"] for name in expected} == expected


def test_shared_settings_follow_role_and_layer_too(tiny: Tiny) -> None:
    plan = planned(tiny, "slerp", sources=1, t={"mlp": [0.0, 0.5, 1.0], "other": 0.25})
    assert step(plan, "model.layers.1.mlp.up_proj.weight").shared == {"t": 0.5}
    assert step(plan, "model.layers.1.self_attn.q_proj.weight").shared == {"t": 0.25}


def test_a_parameter_that_is_not_given_has_its_default(tiny: Tiny) -> None:
    assert step(planned(tiny, "linear"), "lm_head.weight").per_source == {"weight": (1.0, 1.0)}


@pytest.mark.parametrize(
    ("parameters", "problems"),
    [
        (
            {"weight": [1.0, 2.0], "density": {"s1": {"mlp": [0.1] * 3 + [0.2], "other": 1.0}}},
            [
                "parameters.density.s1.mlp: 4 values, but the model has 3 blocks. "
                "Give one value a block.",
                "parameters.weight: 2 values, but the model has 3 blocks. Give one value a block.",
            ],
        ),
        ({"wieght": 1.0}, ["parameters.wieght: unknown key. Did you mean 'weight'?"]),
        ({"wieght": {"s1": 1.0}}, ["parameters.wieght: unknown key. Did you mean 'weight'?"]),
        (
            {"normalize": {"s1": True, "s2": False}},
            [
                "parameters.normalize.s1: all sources share this parameter. Give one value.",
                "parameters.normalize.s2: all sources share this parameter. Give one value.",
            ],
        ),
        (
            {"density": {"s1": 2.0}, "weight": {"s2": "much"}},
            [
                "parameters.density for s1: must lie in [0, 1], got 2",
                "parameters.weight for s2: expected a number, got 'much'",
            ],
        ),
    ],
)
def test_every_mistake_of_a_recipe_is_named_once(
    tiny: Tiny, parameters: dict[str, Any], problems: list[str]
) -> None:
    with pytest.raises(PlanError) as error:
        planned(tiny, **parameters)
    assert sorted(error.value.problems) == problems


def test_a_shared_value_outside_its_domain_is_named_once(tiny: Tiny) -> None:
    with pytest.raises(PlanError, match=r"parameters.tol") as error:
        planned(tiny, "karcher", tol=0.0)
    assert len(error.value.problems) == 1


def test_a_pair_of_three_is_refused(tiny: Tiny) -> None:
    with pytest.raises(PlanError, match=r"slerp merges exactly two models: .* Got 3: s1, s2, s3"):
        planned(tiny, "slerp", sources=3)


def test_an_unknown_operator_is_named(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'ties'"):
        planned(tiny, "tise")
