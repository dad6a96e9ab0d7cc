"""What the keys of a YAML may hold."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import Field, TypeAdapter, ValidationError

from evomerge.config.schema import SearchFile
from evomerge.engines import Engine
from evomerge.executors import Executor
from evomerge.keys import Count, FolderName, Keys, Plain, Seed
from evomerge.operators import get
from evomerge.optimizers import Optimizer
from evomerge.plugins import registry
from evomerge.spaces import Space
from evomerge.types import Parameter


class _Some(Keys):
    count: Count = 1
    seed: Seed = 0
    number: float | None = None
    either: Literal["all"] | int = "all"
    flag: bool | float = False
    rows: tuple[tuple[float, ...], ...] = ()
    passed_on: Plain = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("count", wrong) for wrong in (True, 0, -1, 10**9 + 1, 10**400, 1.5, float("inf"), "x")),
        *(("seed", wrong) for wrong in (False, -1, 2**63, 2**64, 1e30)),
        *(("number", wrong) for wrong in (True, 1e39, -1e308, float("nan"), float("inf"), 10**400)),
        ("either", True),
        ("flag", float("-inf")),
        ("rows", [[1.0, True]]),
        ("rows", [[1.0], [float("nan")]]),
        ("passed_on", {"a": [{"b": float("inf")}]}),
        ("passed_on", {"a": {1: 2}}),
        ("passed_on", {"a": {1, 2}}),
        ("passed_on", {"a": "\0"}),
    ],
)
def test_a_number_that_nothing_can_compute_with_is_refused(key: str, value: object) -> None:
    with pytest.raises(ValidationError):
        _Some.model_validate({key: value})


def test_other_numbers_are_what_they_say() -> None:
    found = _Some.model_validate(
        {"count": 1e3, "seed": 2**63 - 1, "number": -0.0, "either": 7, "flag": True, "rows": [[2]]}
    )
    assert (found.count, found.seed, found.number) == (1000, 2**63 - 1, 0.0)
    assert (found.either, found.flag, found.rows) == (7, True, ((2.0,),))
    assert _Some.model_validate({"number": 5e-324}).number == 5e-324


@pytest.mark.parametrize(
    ("group", "kind"),
    [
        *(("optimizers", Optimizer), ("engines", Engine), ("executors", Executor)),
        *(("spaces", Space), ("operators", None)),
    ],
)
def test_every_option_of_every_component_refuses_them(group: str, kind: Any) -> None:
    checked = 0
    for name in registry.names(group):
        model = get(name).options if kind is None else None
        component: Any = None if kind is None else registry.find(group, name, kind)
        model = model or registry.options_model(component)
        for key, field in model.model_fields.items():
            if field.annotation is Any:
                continue  # one value for every source, checked by its `Bound`
            for value in (float("inf"), float("nan"), 1e308):
                with pytest.raises(ValidationError) as caught:
                    model.model_validate({key: value})
                assert any(item["loc"][:1] == (key,) for item in caught.value.errors()), name
                checked += 1
    assert checked


_UNIT = [Parameter("x", "float", 0.5)]
_LARGEST: dict[str, dict[str, Any]] = {
    "cmaes": {"population_size": 100_000, "sigma": 1e-6},
    "como": {"kernels": 100, "population_size": 10_000, "sigma": 1e-6},
    "pareto": {"population_size": 100_000, "sigma": 1e-6},
    "m2n2": {"population_size": 100_000, "alpha": 100, "mutation": 1e38, "warm_up": 10**9},
    "map_elites": {"cells": 10**9, "initial": 10**9, "lag": 10**9},
    "optuna": {},
    "random": {},
}


@pytest.mark.parametrize("name", registry.names("optimizers"))
def test_an_optimizer_works_at_its_largest_settings_and_seed(name: str) -> None:
    optimizer = registry.make(
        registry.find("optimizers", name, Optimizer), _LARGEST[name], _UNIT, 2**63 - 1
    )
    assert all(optimizer.ask(number) is not None for number in range(3))


def test_a_search_has_no_number_without_an_end() -> None:
    numbers = {"champions", "stop_after_failures", "seed"}
    assert numbers <= SearchFile.model_fields.keys()
    for key in numbers:
        with pytest.raises(ValidationError, match=key):
            SearchFile.model_validate({key: 2**64})


@pytest.mark.parametrize("name", [".", "..", "", "a/b", "x" * 300, "字" * 100])
def test_a_search_has_a_name_that_a_folder_can_have(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(FolderName).validate_python(name)
    assert TypeAdapter(FolderName).validate_python("ties.v2-long") == "ties.v2-long"
