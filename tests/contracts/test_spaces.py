"""What every space promises, over all presets that come with evomerge, on the models of the zoo."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from evomerge import operators, presets
from evomerge.plugins import registry
from evomerge.recipes import Recipe
from evomerge.spaces import SearchContext, Space
from evomerge.spaces.parameter import ParameterSpace
from evomerge.types import Gene, Genome, Parameter
from evomerge.weights.library import Library
from evomerge.weights.plan import make_plan
from evomerge.yaml_files import read_yaml

FOLDER = presets.shipped("search_spaces")
ZOO = Path(__file__).parents[2] / "experiments" / "zoo"
NAMES = ("arithmetic", "strings", "kanji")
PRESETS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
# the others need recorded statistics
PLANNED = [
    name
    for name in PRESETS
    if isinstance(operator := read_yaml(FOLDER / f"{name}.yaml").get("operator", "linear"), list)
    or operators.get(operator).statistics is None
]


@cache
def context(name: str) -> SearchContext:
    """Three sources, or as many as the preset's operator takes."""
    operator = read_yaml(FOLDER / f"{name}.yaml").get("operator")
    most = operators.get(operator).sources if isinstance(operator, str) else None
    sources = {source: str(ZOO / source) for source in NAMES[: most or len(NAMES)]}
    base = str(ZOO / "base")
    return SearchContext(
        base=base, sources=sources, layers=4, dtype="float32", models=Library().open(base, sources)
    )


@cache
def space(name: str) -> Space:
    keys = read_yaml(FOLDER / f"{name}.yaml")
    kind: Callable[..., Space] = registry.find("spaces", keys.pop("kind"), Space)
    return kind(context(name), **registry.validate_options(kind, keys, name))


def drawn(one: Space, seed: int) -> Genome:
    """Any genome within the bounds."""
    random = np.random.default_rng(seed)

    def gene(parameter: Parameter) -> Gene:
        match parameter.kind:
            case "bool":
                return bool(random.random() < 0.5)
            case "choice":
                return str(random.choice(parameter.choices))
            case "int":
                return int(random.integers(int(parameter.low), int(parameter.high) + 1))
            case "float":
                return parameter.from_unit(float(random.random()))

    return Genome({parameter.name: gene(parameter) for parameter in one.parameters})


@pytest.mark.parametrize("name", PRESETS)
def test_genes_have_names_of_their_own_and_start_within_bounds(name: str) -> None:
    parameters = space(name).parameters
    assert len({parameter.name for parameter in parameters}) == len(parameters) > 0
    for parameter in parameters:
        match parameter.kind:
            case "bool":
                assert isinstance(parameter.initial, bool)
            case "choice":
                assert parameter.initial in parameter.choices
            case _:
                assert parameter.low <= float(parameter.initial) <= parameter.high


@pytest.mark.parametrize("name", PRESETS)
def test_a_genome_is_one_recipe_that_comes_back_from_its_json(name: str) -> None:
    one = space(name)
    for genome in (one.initial(), one.representative(), *(drawn(one, n) for n in range(3))):
        recipe = one.decode(genome)
        again = one.decode(Genome(dict(genome.genes), genome.parents))
        assert Recipe.from_canonical_json(recipe.canonical_json()).digest == again.digest


# logits and logarithms come back but for rounding
LOGITS = ("adamerging", "fisher", "karcher", "linear", "multislerp", "nuslerp", "regmean")
ENCODED = [n for n in PRESETS if n != "crossover"]


@pytest.mark.parametrize("name", ENCODED)
def test_a_recipe_of_a_space_is_turned_back_into_a_genome_of_it(name: str) -> None:
    one = space(name)
    for genome in (one.initial(), *(drawn(one, seed) for seed in range(3))):
        recipe = one.decode(genome)
        again = one.encode(recipe)
        assert again.genes.keys() == genome.genes.keys()
        if name not in LOGITS:
            assert one.decode(again).digest == recipe.digest
        if not isinstance(one, ParameterSpace):
            continue  # genes of slots that are in no path do not come back
        used = {gene.name for gene in one.parameters if not gene.name.startswith("order.")}
        if name == "operators":
            used &= again.genes.keys() - {n for n in used if n.startswith("density")}
        assert {n: again.genes[n] for n in used} == pytest.approx(
            {n: genome.genes[n] for n in used}
        )


@pytest.mark.parametrize("name", PLANNED)
def test_every_point_from_which_a_search_may_start_is_planned(name: str) -> None:
    one = space(name)
    starts = one.starts(NAMES[: len(context(name).sources)][::-1])
    assert len({label for label, _ in starts}) == len(starts)
    models = context(name).models
    assert models is not None
    for _, genome in starts:
        assert make_plan(one.decode(genome), models).steps


@pytest.mark.parametrize("name", PLANNED)
def test_any_recipe_is_planned_for_a_worker_of_the_largest(name: str) -> None:
    one = space(name)
    models, largest = context(name).models, one.largest()
    if largest is not None:
        models = Library().models(largest)
    assert models is not None
    for seed in range(2):
        recipe = one.decode(drawn(one, seed))
        plan = make_plan(recipe, models)
        assert plan.models.layers <= models.layers
        assert plan.steps
