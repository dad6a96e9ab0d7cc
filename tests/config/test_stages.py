"""Stages in search files: what is accepted, what stands in for a winner, what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from evomerge.config.estimate import estimate
from evomerge.config.load import load
from evomerge.errors import InputError
from evomerge.recipes import Recipe
from evomerge.search.spec import Search
from evomerge.types import Genome
from evomerge.yaml_files import parse_yaml

ZOO = Path(__file__).parents[2] / "experiments" / "zoo"

GOOD: dict[str, Any] = {
    "name": "good",
    "base": str(ZOO / "base"),
    "sources": {name: str(ZOO / name) for name in ("arithmetic", "strings", "kanji")},
    "stages": [
        {
            "name": "merge",
            "sources": ["arithmetic", "strings"],
            "space": "ties_by_block",
            "budget": {"evaluations": 80},
        },
        {
            "name": "add",
            "sources": ["stage:merge", "kanji"],
            "space": "linear",
            "optimizer": "random",
            "budget": {"evaluations": 20, "seconds": 60},
        },
    ],
    "fitness": "zoo_skills",
    "engine": {"name": "transformers", "threads": 1},
}


STACK = {"kind": "dataflow", "leading": "stage:merge", "scales": "none"}


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def changed(index: int, **keys: Any) -> dict[str, Any]:
    """The good search with some keys of a stage set; None deletes one."""
    content = copy.deepcopy(GOOD)
    stage = content["stages"][index] | keys
    content["stages"][index] = {key: value for key, value in stage.items() if value is not None}
    return content


def problems(folder: Path, content: dict[str, Any], *overrides: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        load(write(folder, content), overrides)
    return list(caught.value.problems)


def stages_of(search: Search) -> list[tuple[str, tuple[str, ...], int | None]]:
    return [(stage.name, stage.needs, stage.budget.evaluations) for stage in search.stages]


def test_stages_load_with_presets_and_the_default_optimizer(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, GOOD))
    assert stages_of(loaded.search) == [("merge", (), 80), ("add", ("merge",), 20)]
    assert loaded.search.paper_defaults == [("ties", ("arithmetic", "strings"))]
    assert loaded.search.evaluations == 100
    assert [part.optimizer["name"] for part in loaded.file.parts] == ["cmaes", "random"]


def test_the_resolved_text_is_the_same_search(tmp_path: Path) -> None:
    first = load(write(tmp_path, GOOD))
    again = load(parse_yaml(first.search.record.search_yaml, "run"))
    assert again.search.record.search_yaml == first.search.record.search_yaml
    assert stages_of(again.search) == stages_of(first.search)


def test_the_recipe_that_a_stage_begins_with_stands_in_for_its_best(tmp_path: Path) -> None:
    merge, add = load(write(tmp_path, GOOD)).search.stages
    start = add.space.decode(add.space.initial())
    assert start.sources["merge"] == merge.space.decode(merge.space.initial())
    best = merge.space.decode(merge.space.initial()).model_copy(update={"seed": 5})
    space = add.new_space({"merge": best})
    assert space.parameters == add.space.parameters
    assert space.decode(space.initial()).sources["merge"] == best


def test_a_stage_has_all_sources_unless_it_names_some(tmp_path: Path) -> None:
    second = load(write(tmp_path, changed(1, sources=None))).search.stages[1]
    assert second.needs == ()
    assert list(second.space.decode(second.space.initial()).sources) == list(GOOD["sources"])


def test_stages_with_the_same_space_draw_differently(tmp_path: Path) -> None:
    keys = {"sources": ["kanji", "strings"], "space": "linear", "optimizer": "random"}
    content = changed(0, **keys)
    content["stages"][1] |= keys
    first, second = (
        stage.new_optimizer(stage.space.parameters).ask(9)
        for stage in load(write(tmp_path, content)).search.stages
    )
    assert first is not None and second is not None
    assert first.genes.keys() == second.genes.keys()
    assert first.genes != second.genes


@pytest.mark.parametrize(
    ("index", "keys", "message"),
    [
        (0, {"budget": None}, "stages.0.budget: this key is required. For example budget"),
        (
            0,
            {"budget": {}},
            "stages.0.budget: give evaluations, examples, tokens, seconds or gpu_hours, or several",
        ),
        (0, {"space": None}, "stages.0.space: this key is required. For example space: "),
        (0, {"name": None}, "stages.0.name: this key is required. For example name: merge"),
        (
            0,
            {"budget": 5},
            "stages.0.budget: expected some of these keys: evaluations, examples, ",
        ),
        (0, {"sources": "kanji"}, "stages.0.sources: expected a list (got 'kanji')"),
        (0, {"space": "ties_by_blok"}, "stages.0.space: no search_spaces preset is called"),
        (1, {"colour": "red"}, "stages.1.colour: unknown key."),
        (1, {"optimiser": "cmaes"}, "stages.1.optimiser: unknown key. Did you mean 'optimizer'?"),
        (1, {"optimizer": "cmase"}, "stages.add.optimizer.name: no optimizer is called 'cmase'."),
        (
            1,
            {"optimizer": {"name": "optuna", "sampler": "nsgaii"}},
            "stages.add.optimizer.sampler: optuna.samplers has no 'nsgaii'.",
        ),
        (1, {"optimizer": "m2n2"}, "stages.add.optimizer: m2n2 makes candidates from parents"),
        (1, {"space": {"kind": "parameter", "operator": "lin"}}, "stages.add.space.operator: no"),
        (1, {"space": "slerp"}, None),
        (0, {"sources": ["kanjy"]}, "stages.merge.sources: 'kanjy' is no source of the search. "),
        (0, {"sources": []}, "stages.merge.sources: name at least one"),
        (0, {"sources": ["stage:add"]}, "stages.merge.sources: stage:add: no earlier stage has"),
        (0, {"sources": ["stage:add"]}, "has this name, but a later one has. Put that one first."),
        (1, {"sources": ["stage:add"]}, "has this name: it is this stage itself. Name an earlier"),
        (1, {"sources": ["merge"]}, "The best of that stage is called 'stage:merge'."),
        (
            1,
            {"space": {"kind": "dataflow", "leading": "stage:mrge"}},
            "stages.add.space.leading: stage:mrge: no earlier stage has this name.",
        ),
        (
            1,
            {"sources": ["kanji"], "space": {"kind": "dataflow", "leading": "merge"}},
            "no model is called 'merge'. Known: base, kanji. The best of that stage is called",
        ),
        (
            1,
            {"space": STACK | {"keep": {"stage:merge": [0, 4]}}},
            "stages.add.space.keep.merge: it has blocks 0 to 3, got 4",
        ),
        (
            1,
            {"space": STACK | {"keep": {"stage:merge": [0], "merge": [1]}}},
            "stages.add.space.keep.merge: merge and stage:merge are one model. Name it once.",
        ),
        (
            1,
            {"space": STACK | {"keep": {"stage:mrge": [0]}}},
            "stages.add.space.keep: stage:mrge: no earlier stage has this name.",
        ),
        (1, {"sources": ["stage:mrge"]}, "Did you mean 'merge'?"),
        (
            0,
            {"space": "dataflow"},
            "stages.add.sources: stage:merge: its best recipe may have more blocks",
        ),
        (1, {"name": "kanji"}, "stages.kanji.name: 'kanji' means something else already"),
        (1, {"name": "mlp"}, "stages.mlp.name: 'mlp' means something else already"),
        (1, {"name": "merge"}, "stages.merge.name: 'merge' means something else already, an ear"),
        (1, {"name": "a b"}, "stages.1.name: String should match pattern"),
    ],
)
def test_one_mistake_in_a_stage_is_one_clear_problem(
    index: int, keys: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    content = changed(index, **keys)
    if message is None:
        load(write(tmp_path, content))  # slerp of a winner and a source is fine
        return
    found = problems(tmp_path, content)
    assert len(found) == 1, found
    assert message in found[0]


def test_all_mistakes_of_all_stages_come_at_once(tmp_path: Path) -> None:
    content = copy.deepcopy(GOOD)
    content["sources"]["kanji"] = "/nowhere/kanji"
    content["stages"][0] |= {"space": "no_such_space", "optimizer": {"name": "cmaes", "pop": 3}}
    content["stages"][1] |= {
        "space": {
            "kind": "parameter",
            "operator": "ties",
            "parameters": {"density": {"low": -1, "high": 1}},
        },
        "budget": {"minutes": 3},
    }
    content["stages"].append({"name": "last", "space": {"kind": "prameter"}, "budget": {"x": 1}})
    found = "\n".join(problems(tmp_path, content))
    parts = ("no_such_space", "pop", "density", "minutes", "prameter", "stages.2.budget.x", "/nowh")
    for part in parts:
        assert part in found


def test_a_stage_with_a_wrong_name_is_called_by_its_index(tmp_path: Path) -> None:
    content = changed(0, name="a b", sources="kanji", optimizer="cmase")
    content["stages"][1]["sources"] = ["stage:a b", "kanji"]
    found = [problem.partition(": ")[2] for problem in problems(tmp_path, content)]
    assert [problem.partition(": ")[0] for problem in found] == [
        *("stages.0.name", "stages.0.sources", "stages.0.optimizer.name")
    ]


@pytest.mark.parametrize("key", ["space", "optimizer", "budget"])
def test_what_every_stage_has_is_refused_beside_them(key: str, tmp_path: Path) -> None:
    value = {"space": "linear", "optimizer": "random", "budget": {"evaluations": 3}}[key]
    (problem,) = problems(tmp_path, GOOD | {key: value})
    assert problem.endswith(f"{key}: every stage has its own. Move it into the stages")


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("merge", "stages: expected a list of stages, got 'merge'. Begin every stage with '- na"),
        ({"merge": {}, "add": {}}, "stages: expected a list of stages, got the keys merge, add. B"),
        (
            ["merge"],
            "stages.0: expected some of these keys: name, sources, space, optimizer, start, ",
        ),
    ],
)
def test_what_is_no_list_of_stages_is_reported_once(
    stages: Any, message: str, tmp_path: Path
) -> None:
    (problem,) = problems(tmp_path, GOOD | {"stages": stages})
    assert message in problem


def test_the_best_of_a_stage_is_no_model_of_a_search_without_stages(tmp_path: Path) -> None:
    only = {key: value for key, value in GOOD.items() if key != "stages"}
    keys = {"space": STACK, "budget": {"evaluations": 3}}
    (problem,) = problems(tmp_path, only | keys)
    assert "space.leading: stage:merge: this search has no stages. Name a source" in problem


def test_a_later_stage_keeps_blocks_of_the_best_of_an_earlier_one(tmp_path: Path) -> None:
    """By either of its names; they are in every path, and the rest may go."""
    for name in ("merge", "stage:merge"):
        keep = {name: [1]}
        space_keys = STACK | {"sources": [], "keep": keep, "repetitions": 1}
        content = changed(1, sources=["kanji"], space=space_keys)
        loaded = load(write(tmp_path, content))
        space = loaded.search.stages[1].space
        assert "in.0.merge.1" not in {parameter.name for parameter in space.parameters}
        genes = dict.fromkeys((p.name for p in space.parameters), False)
        path = [dict(slice_) for slice_ in space.decode(Genome(genes)).slices]
        assert path == [{"merge": (n, n + 1)} for n in (0, 1, 3)]
        again = load(parse_yaml(loaded.search.record.search_yaml, "run"))
        assert again.search.stages[1].space.parameters == space.parameters


def test_no_stages_are_not_stages(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, GOOD | {"stages": []})
    assert "stages: name at least one, or give space and budget without stages" in problem


def test_set_reaches_into_a_stage_by_its_name(tmp_path: Path) -> None:
    words = ["stages.merge.budget.evaluations=5", "stages.add.optimizer.name=cmaes"]
    words += ["stages.merge.space=linear_by_block", "stages.add.space.operator=linear"]
    loaded = load(write(tmp_path, GOOD), words)
    assert stages_of(loaded.search) == [("merge", (), 5), ("add", ("merge",), 20)]
    assert loaded.search.stages[0].space.operators == ("linear",)
    assert [part.optimizer["name"] for part in loaded.file.parts] == ["cmaes", "cmaes"]
    assert "evaluations: 5" in loaded.search.record.search_yaml


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("stages.mrge.budget.evaluations=5", "no stage is called 'mrge'. Did you mean 'merge'?"),
        ("stages.merge=5", "name a key of this stage, e.g. stages.merge.budget=..."),
    ],
)
def test_set_of_no_key_of_a_stage_is_refused(word: str, message: str, tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, GOOD, word)
    assert message in problem


def test_check_tells_of_every_stage_and_adds_them_up(tmp_path: Path) -> None:
    facts = estimate(load(write(tmp_path, changed(0, racing=False))))
    assert facts["stages"] == {
        "merge": {
            "operators": ["ties"],
            "genome_dimension": 2 * 2 * 3 * 4,
            "budget": {"evaluations": 80},
            "generations": {
                "candidates_a_generation": 30,
                "examples_a_generation": 30 * 400,
                "examples_a_candidate": 400,
                "generations_for_the_budget": 2,
            },
            "starts": {"points": 8, "examples": 8 * 400},
            "racing": "off",
        },
        "add": {
            "operators": ["linear"],
            "genome_dimension": 1,
            "budget": {"evaluations": 20, "seconds": 60.0},
            "racing": "off: the optimizer random learns from values, and races only where racing "
            "is written.",
        },
    }
    assert facts["baselines"] == 6  # base, three sources, their average, ties on two of them
    assert facts["bytes_to_merge"] == (80 + 20 + 6) * facts["merged_bytes"]
    search, held_out = (
        sum(facts[f"{split}_examples"].values()) for split in ("search", "held_out")
    )
    assert facts["examples_to_answer"] == (80 + 20 + 6 + 2) * search + (6 + 2 * 3) * held_out


def test_the_timed_candidates_are_one_of_each_stage(tmp_path: Path) -> None:
    few = {"task": "zoo_arithmetic", "search_examples": 8}
    fitness = str(Path(__file__).parents[2] / "fitness" / "zoo_skills")
    content = GOOD | {"fitness": {"include_path": fitness, "tasks": {"arithmetic": few}}}
    facts = estimate(load(write(tmp_path, content)), probe=True)
    timed = facts["timed_stages"]
    assert [timed[name]["candidates_for_the_budget"] for name in ("merge", "add")] == [
        80,
        min(20, int(60 / timed["add"]["seconds_per_candidate"]) - 1),  # less the mean
    ]


def test_a_winner_that_does_not_fit_is_reported_of_its_stand_in(tmp_path: Path) -> None:
    merge = load(write(tmp_path, GOOD)).search.stages[1]
    other = Recipe(base="/nowhere", sources={"a": "/nowhere"}, operator="linear", dtype="float32")
    with pytest.raises(InputError, match=r"merge: /nowhere: no such folder"):
        merge.new_space({"merge": other})
