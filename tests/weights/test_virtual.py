from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from evomerge.errors import CheckpointError, PlanError
from evomerge.recipes import Recipe
from evomerge.weights import merge as merging
from evomerge.weights import virtual
from evomerge.weights.build import build
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.library import Library
from evomerge.weights.merge import merge
from evomerge.weights.plan import Plan
from evomerge.weights.steps import Step
from evomerge.weights.virtual import VirtualCheckpoint

Tiny = Callable[..., Path]
Changed = Callable[..., Path]
UP = "model.layers.1.mlp.up_proj.weight"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
WORDS = (*SPECIAL, *(f"w{number}" for number in range(36)))


def recipe(base: Path | Recipe, *sources: Path | Recipe, **keys: Any) -> Recipe:
    def model(value: Path | Recipe) -> Any:
        return value if isinstance(value, Recipe) else str(value)

    named = {f"s{number}": model(source) for number, source in enumerate(sources, start=1)}
    settings = {"operator": "task_arithmetic", "dtype": "float32", **keys}
    return Recipe.model_validate({"base": model(base), "sources": named, **settings})


def opened(one: Recipe) -> VirtualCheckpoint:
    return VirtualCheckpoint(Library().plan(one), merging.merge_one)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "README.md"
    }


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("where", ["base", "source"])
@pytest.mark.parametrize(
    "inner",
    [
        {"operator": "dare_ties", "parameters": {"density": 0.5}},
        {"operator": "linear", "slices": [{"s1": [0, 2]}, {"s2": [1, 2]}]},
        {"operator": "linear", "modules": ["model.layers.1"]},
    ],
)
def test_a_nested_recipe_gives_the_bytes_of_the_folder_that_it_builds(
    tiny: Tiny, tmp_path: Path, inner: dict[str, Any], where: str, dtype: str
) -> None:
    deep = recipe(tiny(), tiny(1), tiny(2), **{**inner, "dtype": dtype})
    folder = build(deep, tmp_path / "inner")
    outer: dict[str, Any] = {"operator": "ties", "parameters": {"density": 0.7}}
    lone: list[Path | Recipe] = [tiny(3), folder]
    nested_: list[Path | Recipe] = [tiny(3), deep]
    if where == "base":
        lone, nested_ = lone[::-1], nested_[::-1]
    one = build(recipe(*lone, **outer), tmp_path / "one")
    two = build(recipe(*nested_, **outer), tmp_path / "two")
    assert files(one) == files(two)


def test_a_nested_model_looks_like_the_folder(tiny: Tiny, tmp_path: Path) -> None:
    deep = recipe(tiny(tied=True), tiny(1, tied=True), dtype="bfloat16")
    model, built = (
        opened(deep),
        Checkpoint(build(deep, tmp_path / "inner")),
    )
    assert model.config == built.config
    assert model.vocabulary == built.vocabulary
    assert (model.tied, model.layers, model.head) == (built.tied, built.layers, built.head)
    assert model.parameter_count == built.parameter_count
    assert model.places == built.places
    assert [(n, i.dtype, i.shape) for n, i in model.tensors.items()] == [
        (n, i.dtype, i.shape) for n, i in built.tensors.items()
    ]
    assert all(torch.equal(model.read(name), built.read(name)) for name in built.tensors)
    assert model.non_finite() == []


def test_recipes_nest_deeply(tiny: Tiny, tmp_path: Path) -> None:
    inner = recipe(tiny(), tiny(1), dtype="bfloat16")
    middle = recipe(inner, tiny(2), inner, dtype="bfloat16")
    one = build(recipe(middle, tiny(3), inner), tmp_path / "one")
    first = build(inner, tmp_path / "inner")
    second = build(recipe(first, tiny(2), first, dtype="bfloat16"), tmp_path / "middle")
    two = build(recipe(second, tiny(3), first), tmp_path / "two")
    assert files(one) == files(two)


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every tensor of a nested recipe that is merged: operator and name."""
    done: list[tuple[str, str]] = []
    original = merging.merge_one

    def counted(plan: Plan, step: Step) -> Tensor:
        done.append((plan.recipe.operator, step.slot.name))
        return original(plan, step)

    monkeypatch.setattr(merging, "merge_one", counted)
    return done


def test_what_models_share_is_merged_once(tiny: Tiny, count: list[tuple[str, str]]) -> None:
    shared = recipe(tiny(), tiny(1), operator="slerp", parameters={"t": 0.5})
    left = recipe(shared, tiny(2), operator="ties", parameters={"density": 0.5})
    right = recipe(shared, tiny(2), operator="dare_ties", parameters={"density": 0.5})
    plan = Library().plan(recipe(shared, left, right))
    dict(merge(plan))
    names = [step.slot.name for step in plan.steps]
    inner = [pair for pair in count if pair[0] != "task_arithmetic"]
    assert sorted(inner) == sorted((o, n) for o in ("slerp", "ties", "dare_ties") for n in names)


def test_equal_recipes_are_one_model(tiny: Tiny) -> None:
    again = [recipe(tiny(), tiny(1), seed=3) for _ in range(2)]
    models = Library().models(recipe(tiny(), *again))
    assert models.sources["s1"] is models.sources["s2"]
    inner = models.sources["s1"]
    assert isinstance(inner, VirtualCheckpoint)
    assert inner.plan.models.base is models.base


def test_planning_merges_nothing(tiny: Tiny, count: list[tuple[str, str]]) -> None:
    Library().plan(recipe(recipe(tiny(), tiny(1)), tiny(2)))
    assert count == []


def test_tensors_read_long_ago_are_forgotten(
    tiny: Tiny, count: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(virtual, "_KEPT_BYTES", 5000)
    model = opened(recipe(tiny(), tiny(1)))
    norm, embedding = "model.norm.weight", "model.embed_tokens.weight"
    for name in (norm, embedding, embedding, norm, norm, UP, UP, norm):
        model.read(name)
    assert [name for _, name in count] == [norm, embedding, norm, UP, norm]


def test_threads_that_want_one_tensor_wait_for_one(
    tiny: Tiny, count: list[tuple[str, str]]
) -> None:
    model = opened(recipe(tiny(), tiny(1)))
    start = threading.Barrier(8)

    def read(_: int) -> Tensor:
        start.wait()
        return model.read(UP)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, range(8)))
    assert all(tensor is found[0] for tensor in found)
    assert len(count) == 1


def test_a_failure_reaches_every_reader_and_is_not_kept(tiny: Tiny, changed: Changed) -> None:
    def damage(tensors: dict[str, Tensor]) -> None:
        tensors[UP][0, 0] = float("nan")

    outer = Library().plan(recipe(tiny(), recipe(tiny(), changed(tiny(1), damage)), tiny(2)))
    for _ in range(2):
        with pytest.raises(CheckpointError, match=f"tensor {UP} holds 1 NaN"):
            dict(merge(outer))


def test_mistakes_of_a_nested_recipe_name_the_source(tiny: Tiny, tmp_path: Path) -> None:
    inner = recipe(tiny(), tiny(1, num_hidden_layers=4))
    with pytest.raises(PlanError) as error:
        Library().models(recipe(tiny(), inner, recipe(tiny(), tiny(1), parameters={"wieght": 1.0})))
    assert error.value.problems == (
        "s1: s1: has 4 blocks, the base has 3, and blocks are merged one by one. Drop this "
        "source, or stack blocks: slices in a recipe, kind: dataflow in a search.",
        "s2: parameters.wieght: unknown key. Did you mean 'weight'?",
    )
    zeros = recipe(tiny(), tiny(1), operator="linear", parameters={"weight": 0.0})
    with pytest.raises(PlanError, match=r"^s1: parameters\.weight: 0 for all sources in every"):
        Library().models(recipe(tiny(), zeros, tiny(2)))
    with pytest.raises(CheckpointError, match=r"^s1: base: .*gone: no such folder"):
        Library().models(recipe(tiny(), recipe(recipe(tmp_path / "gone", tiny(1)), tiny(1))))


def test_the_fingerprint_is_that_of_recipe_and_weights(tiny: Tiny, changed: Changed) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[UP][0, 0] += 1

    folder = changed(tiny(1))
    inner = recipe(tiny(), folder)
    before = opened(inner).fingerprint
    assert opened(inner).fingerprint == before
    assert opened(recipe(tiny(), folder, seed=1)).fingerprint != before
    folder.joinpath("model.safetensors").write_bytes(
        changed(folder, change).joinpath("model.safetensors").read_bytes()
    )
    assert opened(inner).fingerprint != before


def test_the_models_on_disk_are_those_of_all_recipes(tiny: Tiny) -> None:
    models = Library().models(recipe(tiny(), recipe(tiny(1), tiny(2)), tiny(3)))
    assert set(models.checkpoints) == {tiny(), tiny(1), tiny(2), tiny(3)}


def test_nothing_is_left_behind(tiny: Tiny) -> None:
    model = opened(recipe(tiny(), tiny(1)))
    folder = model.folder
    assert (folder / "config.json").exists()
    del model
    gc.collect()
    assert not folder.exists()


def test_a_selection_knows_nested_recipes(tiny: Tiny) -> None:
    inner = recipe(tiny(), tiny(1))
    models = Library().models(recipe(tiny(), inner, tiny(2)))
    chosen = models.select({"only": inner})
    assert list(chosen.sources.values()) == [models.sources["s1"]]
    with pytest.raises(PlanError, match="not among the models of this search: a recipe with ties"):
        models.select({"other": recipe(tiny(), tiny(1), operator="ties")})


@pytest.mark.parametrize("tokenizer", ["base", "union", "s1"])
def test_a_nested_recipe_brings_its_vocabulary(tiny: Tiny, tmp_path: Path, tokenizer: str) -> None:
    other = tiny(1, words=(*SPECIAL, "new", *WORDS[10:]), rows=40)
    inner = recipe(tiny(), other, tokenizer="union")
    folder = build(inner, tmp_path / "inner")
    one = build(recipe(tiny(2), folder, tokenizer=tokenizer), tmp_path / "one")
    two = build(recipe(tiny(2), inner, tokenizer=tokenizer), tmp_path / "two")
    assert files(one) == files(two)
