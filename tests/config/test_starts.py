"""Starts that a search YAML gives: recipes, earlier runs, values; and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_search import SMALL

from evomerge.config.load import load
from evomerge.errors import ConfigError
from evomerge.types import Proposal

Given = Callable[..., tuple[Proposal, ...]]


@pytest.fixture(scope="module")
def search() -> dict[str, Any]:
    return SMALL | {
        "space": {
            "kind": "parameter",
            "operator": ["task_arithmetic", "ties"],
            "granularity": {"roles": ["mlp", "other"]},
            "parameters": {
                "weight": {"low": 0, "high": 1.5},
                "density": {"low": 0.1, "high": 1, "granularity": {}},
                "normalize": False,
            },
        },
        "budget": {"evaluations": 40},
    }


@pytest.fixture
def recipe(search: dict[str, Any]) -> dict[str, Any]:
    return {
        "evomerge": 1,
        "base": search["base"],
        "sources": search["sources"],
        "operator": "ties",
        "dtype": "float16",
        "parameters": {
            "weight": {"arithmetic": {"mlp": 1.0, "other": 0.5}, "strings": 0.25},
            "density": 0.5,
            "normalize": False,
        },
    }


@pytest.fixture
def given(search: dict[str, Any], tmp_path: Path) -> Given:
    """The starts of a search in a file of its own, by what its YAML says."""

    def read(start: Any, **changes: Any) -> tuple[Proposal, ...]:
        file = tmp_path / "search.yaml"
        file.write_text(yaml.safe_dump({**search, "start": start, **changes}, sort_keys=False))
        return load(file).search.stages[0].given

    return read


GENES = {
    "operator": "ties",
    "weight.arithmetic.mlp": 1.0,
    "weight.arithmetic.other": 0.5,
    "weight.strings.mlp": 0.25,
    "weight.strings.other": 0.25,
    "density.arithmetic": 0.5,
    "density.strings": 0.5,
}


def test_a_search_starts_from_a_recipe_or_from_that_of_a_run(
    given: Given, recipe: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    for file in ("good.yaml", "run/recipe.yaml"):
        (tmp_path / file).write_text(yaml.safe_dump(recipe, sort_keys=False))
    for start in (["auto", "good.yaml", "run"], ["run", "good.yaml"]):
        ((label, genome),) = given(start)  # the same point is tried once
        assert (label, genome.genes) == (start[-2], GENES)


def test_a_search_starts_from_values_of_which_the_others_are_the_initial_ones(
    given: Given,
) -> None:
    values = {"operator": "ties", "weight": {"arithmetic": {"mlp": 1.0, "other": 0.5}}}
    (one,) = given(values)
    same = {name: gene for name, gene in GENES.items() if "strings" not in name}
    other = {"weight.strings.mlp": 0.75, "weight.strings.other": 0.75, "density.strings": 0.55}
    assert one.label == "given"
    assert one.genome.genes == {**same, **other, "density.arithmetic": 0.55}


def test_words_alone_give_no_start_of_their_own(given: Given) -> None:
    assert given("auto") == given(["initial"]) == given([]) == ()
    assert [label for label, _ in given(["initial", {"weight": 1.0}])] == ["initial", "given 2"]


def test_every_stage_has_starts_of_its_own(
    given: Given, search: dict[str, Any], recipe: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    stage = {"name": "one", "space": search["space"], "budget": search["budget"]}
    moved = {"space": None, "budget": None}
    (one,) = given(None, stages=[{**stage, "start": "good.yaml"}], **moved)
    assert one.genome.genes == GENES
    with pytest.raises(ConfigError, match=r"stages\.0\.start: gone\.yaml: no such file"):
        given(None, stages=[{**stage, "start": "gone.yaml"}], **moved)


def test_all_that_does_not_fit_is_told_at_once(
    given: Given, search: dict[str, Any], recipe: dict[str, Any], zoo: Path, tmp_path: Path
) -> None:
    other = {**search["sources"], "strings": str(zoo / "kanji")}
    rows = {"attention": 1.0, "other": [0.5, 0.6, 0.7, 0.8]}
    wrong = {
        "coarse.yaml": recipe
        | {
            "sources": other,
            "parameters": {"weight": {"arithmetic": rows, "strings": 2.25}, "lam": 0.5},
        },
        "linear.yaml": recipe
        | {"operator": "linear", "parameters": {}, "sources": {"kanji": str(zoo / "kanji")}},
    }
    for name, content in wrong.items():
        (tmp_path / name).write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(ConfigError) as caught:
        given([*wrong, {"wieght": 1.0}])
    assert [text.partition(": start.")[2] for text in caught.value.problems] == [
        f"coarse.yaml.sources.strings: '{zoo / 'kanji'}', and here it is '{zoo / 'strings'}'.",
        "coarse.yaml.lam: 0.5, and in this space always 1.0.",
        "coarse.yaml.normalize: True, and in this space always False.",
        "coarse.yaml.weight.arithmetic.mlp: 0.5 and 0.6, where this space has one value. "
        "Set a finer granularity.",
        "coarse.yaml.weight.arithmetic.other: 1.0 and 0.5, where this space has one value. "
        "Set a finer granularity.",
        "coarse.yaml.weight.strings.mlp: 2.25 lies outside [0, 1.5]",
        "coarse.yaml.weight.strings.other: 2.25 lies outside [0, 1.5]",
        "linear.yaml.sources: kanji, and those of this stage are arithmetic, strings.",
        "linear.yaml.operator: linear, and this space has task_arithmetic or ties.",
        "2.wieght: task_arithmetic has none that varies here. Did you mean 'weight'?",
    ]


@pytest.mark.parametrize(
    ("start", "problem"),
    [
        ("gone.yaml", "start: gone.yaml: no such file. Name the YAML of a recipe or the folder"),
        (".", "start: .: no recipe.yaml in it, which a run writes when it ends. Write it: evo"),
        (3, "start: expected auto, initial, a recipe's YAML, a run's folder, or parameters with"),
        ({"weight": 3}, r"start.weight.strings.other: 3 lies outside [0, 1.5]"),
        ({"weight": [1, 2]}, "start.weight: 2 values, but the base has 4 blocks."),
        ({"weight": {"a": 1}}, "start: weight.a: no such role. Known: attention, mlp, norm,"),
        ({"weight": "x"}, "start.weight.arithmetic.mlp: expected a number, got 'x'"),
        ({"weight": {"filter": "mlp", "value": 1}}, "start.weight: set by names of tensors"),
        ("", "start: an empty path. Name the YAML"),
        ({"operator": ["ties"]}, "start.operator: expected task_arithmetic or ties, got ['ties']"),
        ({"operator": "dare"}, "start.operator: expected task_arithmetic or ties, got 'dare'"),
        ({"normalize": True}, "start.normalize: task_arithmetic has none that varies here."),
    ],
)
def test_a_start_that_is_none_is_refused(given: Given, start: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        given(start)
    assert any(problem in text for text in caught.value.problems), caught.value.problems


def test_an_optimizer_that_begins_at_no_point_is_refused(given: Given) -> None:
    with pytest.raises(ConfigError, match=r"start: random begins at no point\. Take optimizer"):
        given({"weight": 1.0}, optimizer="random")
