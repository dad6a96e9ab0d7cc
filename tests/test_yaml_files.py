"""YAML as a person writes it."""

from __future__ import annotations

import pytest

from evomerge.scoring import Fitness
from evomerge.yaml_files import dump_yaml, parse_value, parse_yaml


@pytest.mark.parametrize("text", ["1e-05", "0.00001", "1.0e-5", "1.E-5", ".1e-4", "+1E-05"])
def test_a_number_is_a_number_however_it_is_written(text: str) -> None:
    assert parse_value(text) == 1e-05
    written = f"tasks: {{x: {{scorer: {__file__}:f, weight: {text}, options: {{rate: {text}}}}}}}"
    fitness = Fitness.model_validate(parse_yaml(written, "here"))
    task = {"scorer": f"{__file__}:f", "weight": 1e-05, "options": {"rate": 1e-05}}
    assert fitness.digest == Fitness.model_validate({"tasks": {"x": task}}).digest


@pytest.mark.parametrize("value", [1e-05, -2e30, "1e-05", "-1E5", "e5", "1e", 10**20, "1.e3"])
def test_what_is_written_reads_back_as_what_it_was(value: object) -> None:
    found = parse_yaml(dump_yaml({"a": value}), "here")["a"]
    assert found == value
    assert type(found) is type(value)
