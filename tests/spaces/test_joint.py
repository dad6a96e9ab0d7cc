"""Paths through merged blocks: the same as merging first and stacking what was built."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from evomerge.errors import ConfigError
from evomerge.plugins.registry import validate_options
from evomerge.recipes import Recipe
from evomerge.spaces import SearchContext
from evomerge.spaces.joint import JointSpace
from evomerge.spaces.parameter import ParameterSpace
from evomerge.types import Gene, Genome, Parameter
from evomerge.weights.build import build
from evomerge.weights.library import Library
from evomerge.weights.plan import make_plan

SOURCES = ("arithmetic", "strings")
MERGE: dict[str, Any] = {
    "operator": "ties",
    "granularity": {"layers": "each", "roles": ["attention", "other"]},
    "parameters": {"weight": {"low": 0, "high": 1.5}, "density": {"low": 0.2, "high": 1}},
}
Make = Callable[..., JointSpace]


@pytest.fixture(scope="module")
def context(zoo: Path) -> SearchContext:
    sources = {name: str(zoo / name) for name in SOURCES}
    models = Library().open(str(zoo / "base"), sources)
    return SearchContext(
        base=str(zoo / "base"), sources=sources, layers=4, dtype="float32", models=models
    )


@pytest.fixture(scope="module")
def make(context: SearchContext) -> Make:
    return lambda **options: JointSpace(context, **validate_options(JointSpace, options))


def drawn(space: JointSpace, seed: int) -> Genome:
    """Any genome."""
    random = np.random.default_rng(seed)

    def gene(parameter: Parameter) -> Gene:
        if parameter.kind == "bool":
            return bool(random.random() < 0.5)
        return parameter.from_unit(float(random.random()))

    return Genome({parameter.name: gene(parameter) for parameter in space.parameters})


def layers(recipe: Recipe) -> list[int]:
    """The blocks of a stack; every model takes part in each with the same one."""
    for slice_ in recipe.slices:
        assert list(slice_) == ["base", *SOURCES]
        assert len(set(slice_.values())) == 1
    return [slice_["base"][0] for slice_ in recipe.slices]


def merged(space: ParameterSpace, genome: Genome) -> Recipe:
    genes = {parameter.name: genome.genes[parameter.name] for parameter in space.parameters}
    return space.decode(Genome(genes))


def test_a_search_starts_at_the_weights_that_merging_alone_starts_at(
    make: Make, context: SearchContext, tmp_path: Path
) -> None:
    joint = make(merge=MERGE, path={"repetitions": 2})
    alone = ParameterSpace(context, **validate_options(ParameterSpace, MERGE))
    start, plain = (one.decode(one.initial()) for one in (joint, alone))
    assert layers(start) == [0, 1, 2, 3]
    folders = [build(recipe, tmp_path / str(n)) for n, recipe in enumerate((start, plain))]
    found, expected = (load_file(folder / "model.safetensors") for folder in folders)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("seed", range(4))
def test_values_of_a_block_follow_it_to_every_hop(
    make: Make, context: SearchContext, seed: int
) -> None:
    joint = make(merge=MERGE, path={"repetitions": 3, "scales": "none"})
    alone = ParameterSpace(context, **validate_options(ParameterSpace, MERGE))
    genome = drawn(joint, seed)
    found, plain = joint.decode(genome), merged(alone, genome)
    path = layers(found)
    assert len(path) > len(set(path))  # some come again
    for name in ("weight", "density"):
        for source in SOURCES:
            for role in ("attention", "mlp"):
                own = [plain.setting(name, source, role, layer, "x") for layer in path]
                hops = [found.setting(name, source, role, hop, "x") for hop in range(len(path))]
                assert hops == own


@pytest.mark.parametrize("seed", range(3))
def test_it_builds_what_stacking_the_merged_checkpoint_does(
    make: Make, context: SearchContext, seed: int, tmp_path: Path
) -> None:
    scales = {"kind": "hop", "low": 0.5, "high": 2, "negative": True}
    joint = make(merge=MERGE, path={"repetitions": 2, "scales": scales})
    alone = ParameterSpace(context, **validate_options(ParameterSpace, MERGE))
    genome = drawn(joint, seed)
    recipe = joint.decode(genome)
    assert any(scale != 1 for scale in recipe.scales)
    whole = str(build(merged(alone, genome), tmp_path / "merged"))
    stacked = Recipe(
        base=whole,
        sources={"base": whole},
        operator="passthrough",
        slices=tuple({"base": (layer, layer + 1)} for layer in layers(recipe)),
        scales=recipe.scales,
        dtype="float32",
    )
    folders = [build(one, tmp_path / str(n)) for n, one in enumerate((recipe, stacked))]
    found, expected = (load_file(folder / "model.safetensors") for folder in folders)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_largest_stack_has_every_slot_and_no_more_than_the_limit(
    make: Make, context: SearchContext
) -> None:
    assert layers(make(merge=MERGE, path={"repetitions": 2}).largest()) == [0, 1, 2, 3, 0, 1, 2, 3]
    largest = make(merge=MERGE, path={"repetitions": 2, "max_layers": 5}).largest()
    assert len(layers(largest)) == 5
    assert context.models is not None
    assert make_plan(largest, context.models).models.layers == 5


def test_its_parameters_are_those_of_both_spaces(make: Make) -> None:
    joint = make(merge=MERGE, path={"repetitions": 2})
    names = [parameter.name for parameter in joint.parameters]
    assert len(names) == len(set(names)) == 2 * 2 * 2 * 4 + (8 - 2) + (8 - 1)
    assert joint.operators == ("ties",)


def test_the_operator_is_searched_too(make: Make) -> None:
    merge = {"operator": ["linear", "ties"], "parameters": {"weight": {"low": 0, "high": 1}}}
    joint = make(merge=merge, path={"repetitions": 1})
    genes = joint.initial().genes
    assert [joint.decode(Genome({**genes, "operator": o})).operator for o in joint.operators] == [
        "linear",
        "ties",
    ]


def test_fixed_settings_follow_their_blocks(make: Make) -> None:
    weight = {"mlp": [0.1, 0.2, 0.3, 0.4], "other": 0.5}
    merge = {
        "operator": "linear",
        "parameters": {"weight": weight, "normalize": {"choices": [True, False]}},
    }
    joint = make(merge=merge, path={"repetitions": 2, "indicators": "all"})
    recipe = joint.decode(joint.initial())
    path = layers(recipe)
    assert path == [0, 1, 2, 3, 0, 1, 2, 3]
    found = [recipe.setting("weight", "strings", "mlp", hop, "x.mlp.y") for hop in range(8)]
    assert found == [0.1, 0.2, 0.3, 0.4] * 2
    assert recipe.setting("weight", "strings", "attention", 5, "x.attn.y") == 0.5


def test_mistakes_of_both_are_reported_at_once(make: Make) -> None:
    merge = {
        "operator": "ties",
        "parameters": {"density": {"low": -1, "high": 1}, "lam": [1, 2, 3]},
    }
    path = {"leading": "strings", "max_layers": 2, "repetitions": 40}
    with pytest.raises(ConfigError) as caught:
        make(merge=merge, path=path)
    found = "\n".join(caught.value.problems)
    for part in (
        "path.leading: base and sources are merged",
        "merge.parameters.density",
        "path.re",
    ):
        assert part in found
    with pytest.raises(ConfigError, match=r"merge.parameters.lam: 3 values, but the base has 4"):
        make(merge={**merge, "parameters": {"lam": [1, 2, 3], "weight": {"low": 0, "high": 1}}})
    with pytest.raises(ConfigError, match=r"merge\.opertor: unknown key"):
        make(merge={"opertor": "ties"})


def test_values_start_the_merge_along_the_first_path(make: Make) -> None:
    space = make(merge=MERGE, path={"repetitions": 2})
    genome = space.with_values({"weight": {"strings": [0.25, 0.5, 0.75, 1]}})
    recipe = space.decode(genome)
    assert layers(recipe) == [0, 1, 2, 3]
    assert recipe.parameters["weight"]["strings"] == [0.25, 0.5, 0.75, 1]
    with pytest.raises(ConfigError, match=r"^wieght: ties has none that varies here"):
        space.with_values({"wieght": 1.0})


def test_a_recipe_with_other_values_for_the_same_block_is_none_of_the_space(make: Make) -> None:
    space = make(merge=MERGE, path={"repetitions": 2, "scales": "none"})
    twice = space.decode(Genome({**space.initial().genes, "in.1.base.1": True}))
    assert layers(twice) == [0, 1, 2, 1, 3]
    assert layers(space.decode(space.encode(twice))) == [0, 1, 2, 1, 3]
    changed = twice.model_copy(update={"parameters": {"weight": [0.5, 0.5, 0.5, 0.75, 0.5]}})
    with pytest.raises(ConfigError, match=r"^weight: a block that comes twice has other values"):
        space.encode(changed)
    short = twice.model_copy(update={"parameters": {"weight": [0.5, 0.75]}})
    with pytest.raises(ConfigError, match=r"^weight: expected 5 values, one for each slice"):
        space.encode(short)
    plain = space.context.recipe("ties", {"weight": 0.5})
    with pytest.raises(ConfigError, match=r"^slices: expected slices of one block"):
        space.encode(plain)
