from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from evomerge.recipes import Recipe
from evomerge.weights.library import Library
from evomerge.weights.measures import measures

Tiny = Callable[..., Path]
ALL = ("layers", "parameters", "distance")


def measured(base: Path, source: Path, **keys: Any) -> dict[str, float]:
    content = {"base": str(base), "sources": {"a": str(source)}, "operator": "task_arithmetic"}
    recipe = Recipe.model_validate({"dtype": "float32", **content, **keys})
    return measures(Library().plan(recipe), ALL)


def test_a_merge_has_the_blocks_and_the_elements_of_its_base(tiny: Tiny) -> None:
    found = measured(tiny(), tiny(1))
    tensors = load_file(tiny() / "model.safetensors").values()
    assert found["layers"] == 3
    assert found["parameters"] == sum(tensor.numel() for tensor in tensors)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.0])
def test_the_distance_is_the_length_of_the_task_vector(tiny: Tiny, weight: float) -> None:
    base, source = (load_file(folder / "model.safetensors") for folder in (tiny(), tiny(1)))
    squared = [(source[name] - base[name]).double().square().sum() for name in base]
    whole = [tensor.double().square().sum() for tensor in base.values()]
    expected = weight * math.sqrt(float(torch.stack(squared).sum() / torch.stack(whole).sum()))
    found = measured(tiny(), tiny(1), parameters={"weight": weight})["distance"]
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_model_of_fewer_blocks_has_fewer(tiny: Tiny) -> None:
    recipe = Recipe.model_validate(
        {
            "base": str(tiny()),
            "sources": {"a": str(tiny(1))},
            "operator": "passthrough",
            "slices": [{"a": [0, 1]}, {"a": [2, 3]}],
            "dtype": "float32",
        }
    )
    plan = Library().plan(recipe)
    found = measures(plan, ("layers", "parameters"))
    whole = measured(tiny(), tiny(1))
    assert found["layers"] == 2
    assert found["parameters"] < whole["parameters"]
    assert measures(plan, ()) == {}
