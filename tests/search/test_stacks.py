"""Searches of stacks, on the zoo: from the YAML to the shortest model that is good enough."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import LlamaForCausalLM

from evomerge.analysis.evaluate import evaluate
from evomerge.analysis.export import write_results
from evomerge.analysis.run import Run
from evomerge.config.load import LoadedSearch, load
from evomerge.errors import ConfigError
from evomerge.recipes import Recipe
from evomerge.search.run import resume, start
from evomerge.store import Store
from evomerge.types import Genome
from evomerge.weights.build import build
from evomerge.weights.library import read_recipe

ROOT = Path(__file__).parents[2]
ZOO = ROOT / "experiments" / "zoo"


def loaded(**changes: Any) -> LoadedSearch:
    content: dict[str, Any] = {
        "name": "stacks",
        "base": str(ZOO / "base"),
        "sources": {name: str(ZOO / name) for name in ("arithmetic", "strings")},
        "space": {
            **{"kind": "dataflow", "leading": "arithmetic", "repetitions": 1, "max_layers": 6},
            "scales": {"kind": "hop", "negative": True},
        },
        "fitness": {
            "include_path": str(ROOT / "fitness" / "zoo_skills"),
            "tasks": {"sums": {"task": "zoo_arithmetic", "search_examples": 32}},
        },
        "optimizer": {"name": "cmaes", "population_size": 4},
        "start": "initial",
        "engine": {"name": "transformers", "threads": 1},
        "budget": {"evaluations": 12},
        "seed": 3,
    }
    return load(content | changes)


@pytest.mark.parametrize(
    "space",
    [
        {"kind": "dataflow"},
        {
            "kind": "joint",
            "merge": {"operator": "linear", "parameters": {"weight": {"low": 0, "high": 1}}},
        },
    ],
)
def test_a_family_that_does_not_fold_is_refused_before_any_work(
    tmp_path: Path, space: dict[str, Any]
) -> None:
    for name in ("base", "strings"):
        shutil.copytree(ZOO / name, tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        config |= {"model_type": "helium", "architectures": ["HeliumForCausalLM"]}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    models = {"base": str(tmp_path / "base"), "sources": {"strings": str(tmp_path / "strings")}}
    with pytest.raises(ConfigError, match="scales: helium is none of the families"):
        loaded(**models, space=space)
    if space["kind"] == "dataflow":
        assert loaded(**models, space={**space, "scales": "none"}).models.layers == 4


def test_the_base_is_opened_beside_a_source_with_the_name_that_it_would_have() -> None:
    models = {name: str(ZOO / name) for name in ("arithmetic", "strings")}
    sources = {"arithmetic": models["arithmetic"], "base_model": models["strings"]}
    opened = loaded(sources=sources).search.setup.composition.sources
    assert opened.items() >= sources.items()
    assert str(ZOO / "base") in opened.values()


def shortest(**changes: Any) -> LoadedSearch:
    """Half of the score of strings may go: its third block may, its second not."""
    fitness = loaded().file.fitness.model_dump(exclude_none=True)
    fitness["tasks"] = {"strings": {"task": "zoo_strings", "search_examples": 32}}
    fitness["shorten"] = {"within": 0.5}
    space = {"kind": "dataflow", "leading": "strings", "sources": [], "repetitions": 1}
    return loaded(fitness=fitness, space={**space, "scales": "none"}, **changes)


def stored(folder: Path, digest: str) -> str:
    """The canonical JSON of a recipe of a run."""
    with sqlite3.connect(Store.path(folder)) as base:
        (text,) = base.execute("SELECT json FROM recipes WHERE digest = ?", [digest]).fetchone()
    return str(text)


def test_what_a_search_of_stacks_found_is_a_plain_checkpoint(tmp_path: Path) -> None:
    search, folder = loaded(), tmp_path / "run"
    start(search.search, folder, lambda progress: None)
    found = Run.open(folder)
    assert all(row.status == "done" for row in (*found.baselines, *found.candidates))
    assert {row.recipe.depth for row in found.candidates} > {4}
    write_results(found)
    best = found.best
    assert best is not None and best.search is not None
    recipe = read_recipe(folder / "recipe.yaml")
    assert (recipe.digest, recipe.depth) == (best.recipe.digest, best.recipe.depth)
    fitness = tmp_path / "sums.yaml"
    fitness.write_text(yaml.safe_dump(search.file.fitness.model_dump(exclude_none=True)))
    built = build(recipe, tmp_path / "built")
    engine = "{name: transformers, threads: 1}"
    score = evaluate(built, fitness, engine=engine)
    assert score.value == best.search.value
    assert "scale" in found.export(best.number, "mergekit")
    shares = found.ancestry(best.number).sources
    assert sum(shares.values()) == pytest.approx(1.0)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruning that nobody disturbed."""
    folder = tmp_path_factory.mktemp("pruned") / "run"
    start(shortest().search, folder, lambda progress: None)
    return folder


def test_the_best_of_a_pruning_is_the_shortest_that_is_good_enough(pruned: Path) -> None:
    found = Run.open(pruned)
    (whole,) = [row.search for row in found.baselines if row.candidate.label == "source: strings"]
    scores = {row.recipe.depth: row.search.value for row in found.candidates if row.search}
    assert whole is not None and found.best is not None and found.best.search is not None
    # the whole model scores more, and the shortest of all too little
    assert scores[2] < 0.5 * whole.value < found.best.search.value < scores[4] == whole.value
    assert found.best.recipe.depth == 3
    recipe = Recipe.from_canonical_json(stored(pruned, found.best.recipe.digest))
    assert [dict(s) for s in recipe.slices] == [{"strings": (n, n + 1)} for n in (0, 1, 3)]


def test_the_best_of_an_earlier_stage_is_pruned_as_far_as_its_own_score_allows(
    tmp_path: Path,
) -> None:
    merge = {"operator": "linear", "parameters": {"weight": {"low": 0.4, "high": 0.6}}}
    prune = {"kind": "dataflow", "leading": "stage:merge", "sources": [], "scales": "none"}
    spaces = {"merge": {"kind": "parameter", **merge}, "prune": {**prune, "repetitions": 1}}
    stages = [
        {"name": name, "space": space, "optimizer": "random", "budget": {"evaluations": count}}
        for (name, space), count in zip(spaces.items(), (3, 8), strict=True)
    ]
    fitness = loaded().file.fitness.model_dump(exclude_none=True)
    fitness["shorten"] = {"within": 0.99}  # all are good enough: the shortest is the best
    keys = dict.fromkeys(("space", "optimizer", "start", "budget"))
    search = loaded(stages=stages, fitness=fitness, **keys)
    start(search.search, tmp_path / "run", lambda progress: None)
    found = Run.open(tmp_path / "run")
    pruned = [row for row in found.candidates if row.candidate.stage == "prune"]
    least = min(row.recipe.depth or 0 for row in pruned if row.search and row.search.value > 0)
    assert found.best is not None
    assert (found.best.candidate.stage, found.best.recipe.depth) == ("prune", least)


def test_a_pruning_that_was_stopped_goes_on_as_if_it_never_was(
    pruned: Path, tmp_path: Path
) -> None:
    whole = shortest()

    def stop(progress: Any) -> None:
        if progress.done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(whole.search, tmp_path / "stopped", stop)
    resume(shortest().search, tmp_path / "stopped", lambda progress: None)
    one, two = (Run.open(folder) for folder in (pruned, tmp_path / "stopped"))
    assert [r.recipe.digest for r in two.candidates] == [r.recipe.digest for r in one.candidates]
    assert two.best == one.best


# Models of four blocks and of five


BLOCKS = ROOT / "experiments" / "block_zoo"
DEEPER = {"arithmetic": str(ZOO / "arithmetic"), "kanji": str(BLOCKS / "kanji")}


def test_models_of_other_depths_are_stacked_in_one_search(tmp_path: Path) -> None:
    space = {"kind": "dataflow", "leading": "kanji", "repetitions": 1, "max_layers": 4}
    keep = {"arithmetic": [3], "kanji": [4]}
    search = loaded(sources=DEEPER, space=space | {"scales": "none", "keep": keep})
    assert search.notes == ()
    folder = tmp_path / "run"
    start(search.search, folder, lambda progress: None)
    found = Run.open(folder)
    assert {row.candidate.label: row.recipe.depth for row in found.baselines} == {
        **{"base": 4, "source: arithmetic": 4, "source: kanji": 5}  # and no average of them
    }
    assert all(row.status == "done" for row in (*found.baselines, *found.candidates))
    assert all((row.recipe.depth or 9) <= 4 for row in found.candidates)
    fitness = tmp_path / "sums.yaml"
    fitness.write_text(yaml.safe_dump(search.file.fitness.model_dump(exclude_none=True)))
    (whole,) = [
        row.search for row in found.baselines if row.candidate.label == "source: arithmetic"
    ]
    alone = evaluate(DEEPER["arithmetic"], fitness, engine="{name: transformers, threads: 1}")
    assert whole is not None and whole.value == alone.value

    def stop(progress: Any) -> None:
        if progress.done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(search.search, tmp_path / "stopped", stop)
    resume(search.search, tmp_path / "stopped", lambda progress: None)
    again = Run.open(tmp_path / "stopped")
    assert [r.recipe.digest for r in again.candidates] == [
        r.recipe.digest for r in found.candidates
    ]
    assert again.best == found.best


@pytest.mark.parametrize(
    ("base", "sources", "limit"),
    [(ZOO / "base", DEEPER, None), (BLOCKS / "base", {"arithmetic": DEEPER["arithmetic"]}, 3)],
)
def test_models_of_other_depths_are_stacked_on_a_base_that_is_no_source(
    tmp_path: Path, base: Path, sources: dict[str, str], limit: int | None
) -> None:
    """The deepest stack calls it base, and each source alone has itself as that."""
    space = {"kind": "dataflow", "repetitions": 1, "scales": "none", "max_layers": limit}
    budget = {"evaluations": 4}
    search = loaded(base=str(base), sources=sources, space=space, budget=budget)
    start(search.search, tmp_path / "run", lambda progress: None)
    found = Run.open(tmp_path / "run")
    assert [row.candidate.label for row in found.baselines] == [
        "base",
        *(f"source: {n}" for n in sources),
    ]
    assert all(row.status == "done" for row in (*found.baselines, *found.candidates))
    (whole,) = [
        row.search for row in found.baselines if row.candidate.label == "source: arithmetic"
    ]
    assert whole is not None and whole.value is not None and whole.value > 0.9


def test_a_stack_of_models_of_other_depths_is_what_transformers_makes_of_their_blocks(
    tmp_path: Path,
) -> None:
    space = {"kind": "dataflow", "leading": "kanji", "repetitions": 1, "scales": "none"}
    one = loaded(sources=DEEPER, space=space).search.stages[0].space
    recipe = one.decode(Genome(dict.fromkeys((p.name for p in one.parameters), True)))
    assert recipe.depth == 9
    built = build(recipe, tmp_path / "built")
    stacked = LlamaForCausalLM.from_pretrained(built, dtype=torch.float32)
    kanji, arithmetic = (
        LlamaForCausalLM.from_pretrained(DEEPER[name], dtype=torch.float32)
        for name in ("kanji", "arithmetic")
    )
    blocks = [*kanji.model.layers[:4], *arithmetic.model.layers, kanji.model.layers[4]]
    for number, block in enumerate(blocks):
        block.self_attn.layer_idx = number
    kanji.model.layers = torch.nn.ModuleList(blocks)
    kanji.config.num_hidden_layers = len(blocks)
    prompts = torch.arange(48).reshape(4, 12) + 20
    own, theirs = (
        model.generate(prompts, max_new_tokens=12, do_sample=False) for model in (stacked, kanji)
    )
    assert torch.equal(own, theirs)


def test_a_silent_block_of_a_deeper_model_changes_nothing(tmp_path: Path) -> None:
    """The fourth of the five blocks of `block_zoo` adds zero."""
    space = {"kind": "dataflow", "sources": ["deeper"], "repetitions": 1, "scales": "none"}
    sources = {"deeper": str(BLOCKS / "base")}
    one = loaded(sources=sources, space=space).search.stages[0].space
    genes = {**one.initial().genes, "in.0.deeper.3": True}
    recipe = one.decode(Genome(genes))
    assert recipe.depth == 5
    built = build(recipe, tmp_path / "built")
    tokens = torch.arange(24).reshape(2, 12)
    with torch.inference_mode():
        old, new = (
            LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)(tokens).logits
            for folder in (ZOO / "base", built)
        )
    assert torch.equal(old, new)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("linear", "kanji: has 5 blocks, the base has 4, and blocks are merged one by one. Drop"),
        ("joint", "kanji: has 5 blocks, the base has 4"),
        ("dataflow", "keep.kanji: it has blocks 0 to 4, got 5"),
    ],
)
def test_blocks_of_models_of_other_depths_are_not_merged(space: str, message: str) -> None:
    keys: dict[str, Any] = {"kind": space}
    if space == "dataflow":
        keys |= {"keep": {"kanji": [4, 5]}}
    merge = {"operator": "linear", "parameters": {"weight": {"low": 0, "high": 1}}}
    keys |= {"merge": merge} if space == "joint" else {}
    keys = {"kind": "parameter", **merge} if space == "linear" else keys
    with pytest.raises(ConfigError) as caught:
        loaded(sources=DEEPER, space=keys)
    (problem,) = caught.value.problems
    assert message in problem


def test_merges_that_differ_in_more_than_blocks_are_not_shortened() -> None:
    """What would be left out of a merge is not what the others have: there is no floor."""
    merge = {"operator": "linear", "parameters": {"weight": {"low": 0, "high": 1}}}
    fitness = shortest().file.fitness.model_dump(exclude_none=True)
    cure = r"shorten: in the space joint .* Search in stages: first a merge, then"
    with pytest.raises(ConfigError, match=cure):
        loaded(space={"kind": "joint", "merge": merge}, fitness=fitness)
    stages = [
        {"name": "prune", "space": shortest().file.space, "budget": {"evaluations": 3}},
        {"name": "both", "space": {"kind": "joint", "merge": merge}, "budget": {"evaluations": 3}},
    ]
    keys = dict.fromkeys(("space", "optimizer", "start", "budget"))
    with pytest.raises(ConfigError, match=cure):
        loaded(stages=stages, fitness=fitness, **keys)


def test_models_that_all_have_as_many_blocks_cannot_be_shortened() -> None:
    space = {"kind": "parameter", "operator": "ties", "parameters": {"lam": {"low": 0, "high": 1}}}
    fitness = shortest().file.fitness.model_dump(exclude_none=True)
    with pytest.raises(ConfigError, match="shorten: this space stacks no blocks"):
        loaded(space=space, fitness=fitness)
