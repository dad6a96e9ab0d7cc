"""Tiny models of every family merge as arithmetic says, or are refused by name."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers
from all_families import MOST_USED, families, results
from measure import COLUMNS, Family, measured

from evomerge.weights.architecture.names import places, stack
from evomerge.weights.stacks.block_numbers import Described
from evomerge.weights.stacks.stacking import stack_verdict

DOCS = Path(__file__).parents[2] / "docs"
# All of them take some minutes; `make families` measures every one.
EVERY_SEVENTH = sorted(results().keys() - set(MOST_USED))[::7]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What Transformers says of configs this small is no matter here."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    transformers.logging.set_verbosity(before)


def check(kind: str, folder: Path) -> None:
    known = results()[kind]
    family = Family(kind, known["auto"], folder)
    assert family.name == known["class"]
    assert {column: measured(family, column) for column in COLUMNS} == {
        column: known[column] for column in COLUMNS
    }


@pytest.mark.parametrize("kind", MOST_USED)
def test_the_most_used_families_merge_as_the_table_says(kind: str, tmp_path: Path) -> None:
    check(kind, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVERY_SEVENTH)
def test_every_seventh_family_merges_as_the_table_says(kind: str, tmp_path: Path) -> None:
    check(kind, tmp_path)


def test_the_table_has_three_hundred_families_and_no_wrong_merge() -> None:
    table = results()
    assert len(table) >= 300
    assert set(MOST_USED) <= table.keys() <= families().keys()
    assert not [kind for kind, row in table.items() if "WRONG" in json.dumps(row)]


def test_the_page_is_what_make_families_writes() -> None:
    path = DOCS / "make_family_page.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "families.md").read_text("utf-8") == module.page(), "run make docs"


@pytest.mark.slow
def test_no_family_that_transformers_ships_takes_blocks_elsewhere_unnoticed() -> None:
    """Whatever its blocks are, they move with their settings, or the family is named."""
    from tiny_configs import tiny_config
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from evomerge.weights.architecture.empty import empty_model

    met = 0
    for kind in sorted(CONFIG_MAPPING.keys()):
        try:
            config = json.loads(json.dumps(tiny_config(kind).to_dict(), default=str))
            tensors = empty_model(config).state_dict()
        except Exception:
            continue  # it wants libraries, or parts, that are not there
        rows: dict[str, set[int]] = {}
        for name, place in places(tensors, config).items():
            if place.layer is not None:
                rows.setdefault(str(stack(name)), set()).add(place.layer)
        layers = max((len(numbers) for numbers in rows.values()), default=0)
        if layers < 2:
            continue
        met += 1
        model = Described(config, layers)
        for numbers in (range(layers), (*range(layers), 0)):
            verdict = stack_verdict(model, [(model, number) for number in numbers])
            assert all(said.startswith("slices: ") for said in verdict.problems), kind
            assert not verdict.notes, kind
    assert met >= 300
