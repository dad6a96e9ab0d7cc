"""Search files: what is accepted, and how mistakes are reported."""

from __future__ import annotations

import copy
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

import evomerge
from evomerge.config.load import load
from evomerge.errors import ConfigError, InputError
from evomerge.search.racing.settings import Racing
from evomerge.search.run import start
from evomerge.weights.checkpoint import Checkpoint
from evomerge.yaml_files import parse_yaml

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "experiments" / "zoo"
OWN_TASKS = {"include_path": str(ROOT / "fitness" / "zoo_skills")}

GOOD: dict[str, Any] = {
    "name": "good",
    "base": str(ZOO / "base"),
    "sources": {"arithmetic": str(ZOO / "arithmetic"), "strings": str(ZOO / "strings")},
    "space": "ties_by_block",
    "fitness": "zoo_skills",
    "optimizer": {"name": "cmaes", "population_size": 8, "sigma": 0.2},
    "engine": {"name": "transformers", "threads": 1},
    "executor": {"name": "local"},
    "budget": {"evaluations": 80},
    "seed": 0,
}


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def changed(path: str, value: Any) -> dict[str, Any]:
    """The good search with one key set; None deletes it."""
    content = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    place = content
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return content


def problems(folder: Path, content: dict[str, Any], *overrides: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        load(write(folder, content), overrides)
    return list(caught.value.problems)


def test_a_good_search_loads(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, GOOD))
    assert len(loaded.search.stages[0].space.parameters) == 2 * 2 * 3 * 4
    assert loaded.search.context.dtype == "bfloat16"
    assert loaded.notes == ()


def test_folders_are_seen_from_the_file(tmp_path: Path) -> None:
    shutil.copytree(ZOO / "base", tmp_path / "zoo" / "base")
    (tmp_path / "deep").mkdir()
    content = changed("base", "../zoo/base")
    assert load(write(tmp_path / "deep", content)).file.base == str(tmp_path / "zoo" / "base")


def test_the_content_of_a_file_loads_with_folders_seen_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ZOO)
    content = changed("base", "base")
    before = copy.deepcopy(content)
    loaded = evomerge.load(content, ["budget.evaluations=5"])
    assert loaded.file.base == str(ZOO / "base")
    assert loaded.search.stages[0].budget.evaluations == 5
    assert content == before
    text = load(str(write(tmp_path, GOOD)), ["budget.evaluations=5"]).search.record.search_yaml
    assert loaded.search.record.search_yaml == text
    with pytest.raises(ConfigError, match=r"^search: optimiser: unknown key"):
        evomerge.load(content | {"optimiser": "cmaes"})


def test_statistics_are_seen_from_the_file_and_needed_by_some_operators(tmp_path: Path) -> None:
    content = GOOD | {"space": "fisher", "statistics": {"arithmetic": "../stats"}}
    (tmp_path / "deep").mkdir()
    (tmp_path / "stats").mkdir()
    found = problems(tmp_path / "deep", content)
    assert any(f"statistics.arithmetic: {tmp_path / 'stats'}" in problem for problem in found)
    assert any("fisher needs fisher of strings" in problem for problem in found)
    assert (
        load(write(tmp_path / "deep", content | {"space": "linear"}))
        .search.stages[0]
        .space.parameters
    )


def test_the_resolved_text_is_the_same_search(tmp_path: Path) -> None:
    first = load(write(tmp_path, GOOD))
    again = load(parse_yaml(first.search.record.search_yaml, "run"))
    assert again.search.record.search_yaml == first.search.record.search_yaml
    assert again.search.record.fitness_digest == first.search.record.fitness_digest
    assert again.search.stages[0].space.parameters == first.search.stages[0].space.parameters


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("optimiser", {"name": "cmaes"}, "optimiser: unknown key. Did you mean 'optimizer'?"),
        ("optimizer.popsize", 8, "optimizer.popsize: unknown key. Did you mean 'population_size'?"),
        ("optimizer.name", "cmase", "no optimizer is called 'cmase'. Did you mean 'cmaes'?"),
        ("optimizer.sigma", -1, "optimizer.sigma"),
        ("engine.dtype", "float8", "engine.dtype"),
        ("engine.device", "toaster", "engine.device: torch has no device 'toaster'"),
        ("engine.name", "transformer", "Did you mean 'transformers'?"),
        ("executor.name", "remote", "no executor is called 'remote'"),
        ("budget", {"evaluations": 0}, "budget.evaluations"),
        (
            "budget",
            {},
            "budget: give evaluations, examples, tokens, seconds or gpu_hours, or several",
        ),
        ("budget", None, "budget: this key is required"),
        ("base", "/nowhere/base", "/nowhere/base: no such folder"),
        ("sources.strings", "/nowhere/strings", "/nowhere/strings: no such folder"),
        ("sources", {}, "sources"),
        ("sources", {"mlp": str(ZOO / "strings")}, "is a word of recipes"),
        ("space", "ties_by_blok", "Did you mean 'ties_by_block'?"),
        ("space", "spaces/mine.yaml", "mine.yaml: no such file"),
        ("space", "slerp_by_layer", None),
        ("fitness", "zoo_skill", "Did you mean 'zoo_skills'?"),
        (
            *("fitness", {**OWN_TASKS, "tasks": ["zoo_arithmetics"]}),
            "no lm-eval task is called 'zoo_arithmetics'. Did you mean 'zoo_arithmetic'?",
        ),
        pytest.param(
            *("fitness", {"tasks": ["zoo_arithmetics"]}),
            "no lm-eval task is called 'zoo_arithmetics'",
            marks=pytest.mark.slow,  # it reads lm-eval's 14 000 task files
        ),
        ("fitness", {"tasks": {}}, "fitness.tasks"),
        ("dtype", "float8", "dtype"),
        ("seed", -1, "seed"),
    ],
)
def test_one_mistake_is_one_clear_problem(
    path: str, value: Any, message: str | None, tmp_path: Path
) -> None:
    if message is None:
        load(write(tmp_path, changed(path, value)))  # slerp of two sources is fine
        return
    found = problems(tmp_path, changed(path, value))
    assert len(found) == 1, found
    assert message in found[0]


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    content = changed("sources.strings", "/nowhere/strings")
    content["optimizer"]["popsize"] = 8
    content["space"] = {
        "kind": "parameter",
        "operator": "ties",
        "parameters": {"density": {"low": -1, "high": 1}},
    }
    content["engine"]["colour"] = "red"
    content["fitness"] = {**OWN_TASKS, "tasks": ["zoo_stringz"]}
    found = "\n".join(problems(tmp_path, content))
    for part in ("nowhere", "popsize", "density", "colour", "zoo_stringz"):
        assert part in found


def test_a_search_that_begins_with_a_model_of_zeros_is_refused(tmp_path: Path) -> None:
    weight: dict[str, float] = {"low": 0, "high": 1, "initial": 0}
    space = {"kind": "parameter", "operator": "linear", "parameters": {"weight": weight}}
    (problem,) = problems(tmp_path, changed("space", space))
    assert "parameters.weight: 0 for all sources in every tensor" in problem
    weight["initial"] = 0.5  # the search may come to 0 all the same
    load(write(tmp_path, changed("space", space)))


def test_slerp_of_three_models_is_refused(tmp_path: Path) -> None:
    content = changed("space", "slerp_by_layer")
    content["sources"]["kanji"] = str(ZOO / "kanji")
    (problem,) = problems(tmp_path, content)
    assert "slerp merges exactly two models" in problem


def test_set_overrides_one_key_and_is_recorded(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, GOOD), ["optimizer.population_size=6", "budget={evaluations: 5}"])
    assert loaded.file.parts[0].optimizer["population_size"] == 6
    assert loaded.search.stages[0].budget.evaluations == 5
    assert "population_size: 6" in loaded.search.record.search_yaml


def test_set_reaches_into_a_preset(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, GOOD), ["space.granularity={layers: all}"])
    assert len(loaded.search.stages[0].space.parameters) == 4


def test_set_names_another_preset_and_changes_it(tmp_path: Path) -> None:
    words = ["space.granularity={layers: all}", "space=linear_by_block", "optimizer=random"]
    loaded = load(write(tmp_path, GOOD), words)
    assert loaded.search.stages[0].space.operators == ("linear",)
    assert len(loaded.search.stages[0].space.parameters) == 2


def test_set_below_a_number_is_refused(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, GOOD, "budget.evaluations.x=1")
    assert "evaluations is 80, it has no keys" in problem


@pytest.mark.parametrize("start", ["auto", ["auto", "initial"]])
def test_set_of_a_key_in_place_of_a_word_is_refused_with_what_does_it(
    start: Any, tmp_path: Path
) -> None:
    content = GOOD | {"start": start, "space": "linear_by_block"}
    (problem,) = problems(tmp_path, content, "start.weight.strings=1.0")
    assert problem == (
        f"--set: 'start.weight.strings=1.0': start is {start}, it has no keys. "
        "To put keys in its place: --set 'start={weight: {strings: 1.0}}'"
    ).replace("start is auto", "start is 'auto'")
    (cure,) = shlex.split(problem.partition("--set '")[2].join(["'", ""]))
    assert load(write(tmp_path, content), [cure]).search.stages[0].given


def test_set_in_a_preset_that_is_not_there_is_one_problem(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, changed("space", "lineer"), "space.granularity={layers: all}")
    assert "space: no search_spaces preset is called 'lineer'" in problem


@pytest.mark.parametrize("racing", [False, True, None, {"rungs": 3}])
def test_set_of_a_key_of_racing_turns_it_on(racing: Any, tmp_path: Path) -> None:
    loaded = load(write(tmp_path, GOOD | {"racing": racing}), ["racing.first=20"])
    assert loaded.file.racing == Racing(first=20)


def test_racing_true_is_the_usual_racing(tmp_path: Path) -> None:
    assert load(write(tmp_path, GOOD | {"racing": True})).file.racing == Racing()


@pytest.mark.parametrize(
    ("racing", "message"),
    [
        ("on", "racing: expected true, false or the keys first, rungs, keep, got 'on'"),
        (40, "racing: expected true, false or the keys first, rungs, keep, got 40"),
        ({"frist": 2}, "racing.frist: unknown key. Did you mean 'first'?"),
        ({"first": True}, "racing.first: expected a number, got true"),
    ],
)
def test_what_is_wrong_with_racing_is_one_sentence(
    racing: Any, message: str, tmp_path: Path
) -> None:
    (problem,) = problems(tmp_path, GOOD | {"racing": racing})
    assert problem.endswith(f"search.yaml: {message}")


def test_checking_reads_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Checkpoint, name: str) -> None:
        raise AssertionError(f"{name} was read")

    monkeypatch.setattr(Checkpoint, "read", refuse)
    load(write(tmp_path, GOOD))


@pytest.mark.parametrize("override", ["optimizer.population_size", "=3"])
def test_set_without_a_value_is_refused(override: str, tmp_path: Path) -> None:
    assert any("expected key=value" in p for p in problems(tmp_path, GOOD, override))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "not valid YAML"),
        ("- a\n- b\n", "expected keys and values"),
        ("name: a\nname: b\n", "key 'name' is given twice"),
        ("name: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_what_is_not_a_search_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "search.yaml")


def damaged(folder: Path, change: str) -> Path:
    """A copy of an expert with something wrong."""
    model = folder / "damaged"
    shutil.copytree(ZOO / "strings", model)
    file = model / "model.safetensors"
    if change == "truncated":
        file.write_bytes(file.read_bytes()[:-1000])
    elif change == "heads":
        config = json.loads((model / "config.json").read_text())
        config["num_attention_heads"] *= 2
        (model / "config.json").write_text(json.dumps(config))
    else:
        tensors = load_file(file)
        name = "model.layers.1.mlp.up_proj.weight"
        if change == "nan":
            tensors[name][3, 5] = float("nan")
        elif change == "shape":
            tensors[name] = tensors[name][:-1].clone()
        save_file(tensors, file, metadata={"format": "pt"})
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("truncated", "truncated"),
        ("heads", "num_attention_heads"),
        ("shape", "model.layers.1.mlp.up_proj.weight is"),
    ],
)
def test_a_damaged_source_is_found_from_headers(change: str, message: str, tmp_path: Path) -> None:
    content = changed("sources.strings", str(damaged(tmp_path, change)))
    (problem,) = problems(tmp_path, content)
    assert message in problem


def test_a_nan_in_a_source_is_found_before_anything_is_written(tmp_path: Path) -> None:
    model = damaged(tmp_path, "nan")
    loaded = load(write(tmp_path, changed("sources.strings", str(model))))
    with pytest.raises(InputError) as caught:
        start(loaded.search, tmp_path / "run", lambda _: None)
    (problem,) = caught.value.problems
    assert "model.layers.1.mlp.up_proj.weight holds 1 NaN" in problem
    assert str(model / "model.safetensors") in problem
    assert not (tmp_path / "run").exists()


def test_an_optimizer_with_parents_needs_a_space_that_can_cross(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, changed("optimizer", {"name": "m2n2"}))
    assert problem.endswith(
        "optimizer: m2n2 makes candidates from parents, which this space cannot cross. "
        "Set space: crossover."
    )


def test_a_space_that_crosses_needs_an_optimizer_with_parents(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, changed("space", "crossover"))
    assert problem.endswith(
        "optimizer: cmaes names no parents, but this space crosses parents. Set optimizer: m2n2."
    )


def test_a_search_with_parents_loads(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, GOOD), ["space=crossover", "optimizer=m2n2"])
    assert [p.name for p in loaded.search.stages[0].space.parameters] == [
        "source",
        "split[all]",
        "ratio[all]",
    ]


def test_what_is_wrong_with_crossover_is_reported_with_all_else(tmp_path: Path) -> None:
    overrides = ["space={kind: crossover, align: word, chromosomes: [mpl]}", "optimizer=m2n2"]
    align, unknown, left_out = problems(tmp_path, GOOD, *overrides)
    assert "space.align: Input should be 'element', 'tensor' or 'layer' (got 'word')" in align
    assert "space: chromosomes: no tensor belongs to mpl. Did you mean 'mlp'?" in unknown
    assert "belong to none" in left_out


def test_descriptors_that_are_no_tasks_are_refused(tmp_path: Path) -> None:
    optimizer = "optimizer={name: map_elites, descriptors: [arithmetik, strings]}"
    (problem,) = problems(tmp_path, GOOD, "space=crossover", optimizer)
    assert problem.endswith(
        "optimizer.descriptors: 'arithmetik' is no task of the fitness. Did you mean 'arithmetic'?"
    )


def test_workers_of_stacks_open_all_models_at_the_greatest_depth(tmp_path: Path) -> None:
    content = changed("space", {"kind": "dataflow", "leading": "strings", "max_layers": 9})
    models = load(write(tmp_path, content)).search.setup.composition
    strings, arithmetic = (GOOD["sources"][name] for name in ("strings", "arithmetic"))
    assert len(models.slices) == 9
    assert (models.base, list(models.slices[0]), list(models.slices[-1])) == (
        *(strings, ["strings"], ["strings"]),
    )
    # the base is compared with, though no path leads through it
    assert models.sources == {
        **{"arithmetic": arithmetic, "strings": strings, "base_model": GOOD["base"]}
    }


def test_all_that_is_wrong_with_a_stack_is_reported_at_once(tmp_path: Path) -> None:
    keys = {"kind": "dataflow", "keep": {"base": "all"}, "max_layers": 3, "max_parameters": 10}
    found = problems(tmp_path, {**changed("space", keys), "fitness": "zoo_skils"})
    assert len(found) == 3
    assert "space.max_layers: 3, but the ends" in found[1]


def test_what_may_be_missing_reaches_workers_and_recipes_and_is_kept_where_it_is_set() -> None:
    plain, allowing = load(GOOD), load({**GOOD, "allow_missing": ["*.bias"]})
    assert "allow_missing" not in plain.search.record.search_yaml
    assert "allow_missing: ['*.bias']" in allowing.search.record.search_yaml
    assert allowing.search.setup.composition.allow_missing == ("*.bias",)
    assert allowing.search.context.recipe("linear").allow_missing == ("*.bias",)
    with pytest.raises(ConfigError, match=r"allow_missing\.0: "):
        load({**GOOD, "allow_missing": [""]})


def test_a_key_without_a_value_is_said_to_be_missing(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, GOOD | {"space": None})
    assert "search.yaml: space: this key is required" in problem


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("base", "~nosuchuser/x"),
        ("sources.strings", "a" * 300),
        ("statistics", {"strings": "loop/x"}),
        ("fitness", "loop/x.yaml"),
        ("space", "a" * 300 + ".yaml"),
        ("engine", {"name": "torch", "module": "~nosuchuser/x.py:build"}),
        ("fitness", {"tasks": {"x": {"scorer": "loop/x.py:f"}}}),
    ],
)
def test_what_is_no_path_is_said_with_its_key(path: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    found = problems(tmp_path, changed(path, value))
    assert any(f"search.yaml: {path.partition('.')[0]}: " in p and "not a path" in p for p in found)


def test_every_preset_and_override_is_read_as_strictly(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text("kind: !!set {a}")
    (found,) = problems(tmp_path, GOOD | {"space": "space.yaml"})
    assert "space.yaml: not valid YAML: line 1, column 7: the tag '!!set' is not known" in found
    (found,) = problems(tmp_path, GOOD, "seed=!!int x")
    assert found.startswith("--set: 'seed=!!int x': not valid YAML: line 1, column 1: 'x' is no")


def test_a_key_that_stages_have_is_found_beside_a_stage_that_is_wrong(tmp_path: Path) -> None:
    stages = [{"name": "a", "space": "ties", "budget": {"evaluations": 2}, "models": "x"}]
    keys = {key: GOOD[key] for key in GOOD if key not in ("space", "budget")}
    found = problems(tmp_path, keys | {"stages": stages, "optimizer": "cmaes"})
    assert any("stages.0.models: unknown key." in problem for problem in found)
    assert any("optimizer: every stage has its own." in problem for problem in found)
