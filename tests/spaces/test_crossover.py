"""The space of children, on the zoo: from genomes to recipes, and to the bytes of an engine."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from evomerge.engines.transformers import TransformersEngine
from evomerge.errors import ConfigError, PlanError
from evomerge.optimizers.m2n2 import M2n2
from evomerge.recipes.yaml import to_yaml
from evomerge.search.baselines import baselines
from evomerge.spaces import SearchContext
from evomerge.spaces.crossover import CrossoverSpace
from evomerge.types import Evaluation, Genome, TaskScores
from evomerge.weights.build import build
from evomerge.weights.library import Library, read_recipe
from evomerge.weights.models import Models
from evomerge.weights.plan import make_plan

SOURCES = ("arithmetic", "strings", "kanji")


@pytest.fixture(scope="module")
def models(zoo: Path) -> Models:
    return Library().open(str(zoo / "base"), {name: str(zoo / name) for name in SOURCES})


def context(models: Models, zoo: Path, dtype: str = "float32") -> SearchContext:
    sources = {name: str(zoo / name) for name in SOURCES}
    return SearchContext(
        base=str(zoo / "base"), sources=sources, layers=4, dtype=dtype, models=models
    )


@pytest.fixture(scope="module")
def space(models: Models, zoo: Path) -> CrossoverSpace:
    return CrossoverSpace(context(models, zoo))


def seeds(space: CrossoverSpace) -> list[Genome]:
    return [Genome({**space.initial().genes, "source": name}) for name in SOURCES]


def child(space: CrossoverSpace, *parents: Genome, **genes: float) -> Genome:
    """A child with the same split and ratio in all chromosomes."""
    values = {p.name: genes[p.name.partition("[")[0]] for p in space.parameters[1:]}
    return space.child(Genome({"source": "kanji", **values}, (0, 1)), parents)


def evolve(space: CrossoverSpace, count: int, **options: Any) -> list[Genome]:
    """The genomes of M2N2 whose candidates solve examples by chance."""
    optimizer = M2n2(space.parameters, 5, **options)
    genomes: list[Genome] = []
    for number in range(count):
        genome = optimizer.ask(number)
        assert genome is not None
        if genome.parents:
            genome = space.child(genome, [genomes[n] for n in genome.parents])
        genomes.append(genome)
        solved = np.random.default_rng(number).integers(0, 2, 40).astype(float)
        task = TaskScores(0.0, tuple(range(40)), tuple(solved.tolist()))
        optimizer.tell(number, Evaluation("done", {"task": task}, value=0.0))
    return genomes


def row(space: CrossoverSpace, genome: Genome) -> list[float]:
    """The coefficients of a recipe that are the same on all elements."""
    recipe = space.decode(genome)
    if recipe.segments is None:
        return [float(name in recipe.sources) for name in SOURCES]
    (only,) = recipe.segments.rows
    return list(only)


def test_seeds_may_be_sums_of_sources_and_of_weights_their_means(models: Models, zoo: Path) -> None:
    deltas = CrossoverSpace(context(models, zoo), space="task_vector")
    found = {label: row(deltas, genome) for label, genome in deltas.starts(["kanji", "strings"])}
    assert found == {
        "kanji alone": [0, 0, 1],
        "kanji leading": [0.3, 0.3, 1],
        "all but arithmetic": [0, 0.7, 0.7],
        "1/3 of each": pytest.approx([1 / 3] * 3),
        "0.5 of each": [0.5] * 3,
        "0.7 of each": [0.7] * 3,
        "strings alone": [0, 1, 0],
        "strings leading": [0.3, 1, 0.3],
        "all but strings": [0.7, 0, 0.7],
        "arithmetic alone": [1, 0, 0],
        "arithmetic leading": [1, 0.3, 0.3],
        "all but kanji": [0.7, 0.7, 0],
    }
    weights = CrossoverSpace(context(models, zoo))
    found = {label: row(weights, genome) for label, genome in weights.starts()}
    assert all(sum(one) == pytest.approx(1) for one in found.values())
    assert len(found) == 1 + 3 * 3  # equal weights are one mean


def test_children_of_such_seeds_may_add_up_to_more_than_one(models: Models, zoo: Path) -> None:
    deltas = CrossoverSpace(context(models, zoo), space="task_vector")
    starts = dict(deltas.starts())
    one = child(deltas, starts["strings alone"], starts["0.7 of each"], split=1.0, ratio=0.5)
    assert row(deltas, one) == pytest.approx([0.35, 0.85, 0.35])
    make_plan(deltas.decode(one), models)


def test_the_genes_are_a_source_and_a_split_and_a_ratio_for_every_chromosome(
    models: Models, zoo: Path
) -> None:
    space = CrossoverSpace(context(models, zoo), chromosomes=["attention", "mlp", "rest"])
    assert [parameter.name for parameter in space.parameters] == [
        "source",
        *("split[attention]", "split[mlp]", "split[rest]"),
        *("ratio[attention]", "ratio[mlp]", "ratio[rest]"),
    ]
    assert space.parameters[0].choices == SOURCES


def test_a_seed_is_the_recipe_of_its_baseline(
    space: CrossoverSpace, models: Models, zoo: Path
) -> None:
    paper_defaults = [(operator, SOURCES) for operator in space.operators]
    known = {one.label: one.recipe for one in baselines(context(models, zoo), paper_defaults)}
    assert list(known)[-1] == "uniform average"
    for name, seed in zip(SOURCES, seeds(space), strict=True):
        assert space.decode(seed).digest == known[f"source: {name}"].digest


def test_a_child_says_how_it_was_made(space: CrossoverSpace) -> None:
    first, second, _ = seeds(space)
    found = child(space, first, second, split=0.25, ratio=0.125)
    size = space.layout.size
    assert found.parents == (0, 1)
    assert found.genes == {
        "split[all]": 0.25,
        "ratio[all]": 0.125,
        "cut[all]": [0, size // 4, size],
        "left[all]": [0.875, 0.125],
        "right[all]": [0.125, 0.875],
        "bounds": [0, size // 4, size],
        "rows": [[0.875, 0.125, 0.0], [0.125, 0.875, 0.0]],
    }


def test_a_child_of_one_parent_is_its_copy(space: CrossoverSpace) -> None:
    first, second, third = seeds(space)
    whole = child(space, first, second, split=0.25, ratio=0.125)
    copy = space.child(Genome(dict(third.genes), (3,)), [whole])
    assert space.decode(copy).digest == space.decode(whole).digest


@pytest.mark.parametrize("interpolation", ["lerp", "slerp"])
def test_a_child_of_twice_the_same_parent_is_the_same_recipe(
    interpolation: Any, models: Models, zoo: Path
) -> None:
    space = CrossoverSpace(context(models, zoo), interpolation=interpolation)
    first, second, third = seeds(space)
    parent = child(
        space, child(space, first, second, split=0.3, ratio=0.1), third, split=0.6, ratio=0.7
    )
    for one in (first, parent):
        again = child(space, one, one, split=0.41, ratio=0.23)
        assert space.decode(again).digest == space.decode(one).digest
        assert again.genes["split[all]"] == 0.41  # what was asked for is still on record


def test_a_representative_candidate_mixes_two_sources_at_every_element(
    models: Models, zoo: Path
) -> None:
    space = CrossoverSpace(context(models, zoo), chromosomes=["attention", "mlp", "rest"])
    recipe = space.decode(space.representative())
    assert recipe.segments is not None
    assert list(recipe.segments.rows) == [(0.75, 0.25, 0.0), (0.25, 0.75, 0.0)] * 3


def test_without_open_models_there_are_seeds_and_no_children(zoo: Path) -> None:
    sources = {name: str(zoo / name) for name in SOURCES}
    space = CrossoverSpace(
        SearchContext(base=str(zoo / "base"), sources=sources, layers=4, dtype="float32")
    )
    assert space.decode(space.initial()).operator == "linear"
    message = r"expected open models, got a context without\. Give them: SearchContext\("
    with pytest.raises(ConfigError, match=message):
        _ = space.layout
    with pytest.raises(ConfigError, match=message):
        space.representative()


def test_a_recorded_genome_is_the_same_genome_and_gives_the_same_recipe(
    space: CrossoverSpace,
) -> None:
    for genome in evolve(space, 30):
        again = Genome(json.loads(json.dumps(dict(genome.genes))), genome.parents)
        assert again == genome
        assert space.decode(again).digest == space.decode(genome).digest


def test_what_the_optimizer_tells_of_parents_stays_with_the_child(space: CrossoverSpace) -> None:
    last = evolve(space, 12)[-1]
    assert last.genes["chosen_by"] in ("attraction", "fitness")
    assert last.genes["attraction"] > 0


@pytest.mark.parametrize("align", ["tensor", "layer"])
def test_models_may_be_split_between_tensors_or_layers_alone(
    align: Any, models: Models, zoo: Path
) -> None:
    space = CrossoverSpace(context(models, zoo), align=align, chromosomes=["attention", "rest"])
    allowed = space.layout.starts if align == "tensor" else space.layout.layers
    bounds = {bound for genome in evolve(space, 40)[3:] for bound in genome.genes["bounds"]}
    assert len(bounds) > 5
    assert bounds <= set(allowed)


def test_every_chromosome_is_split_by_itself(models: Models, zoo: Path) -> None:
    space = CrossoverSpace(
        context(models, zoo), chromosomes={"early": ["model.layers.0.*"], "late": "rest"}
    )
    first, second, _ = seeds(space)
    found = child(space, first, second, split=0.5, ratio=0.25).genes
    edge = found["cut[early]"][2]
    assert edge == found["cut[late]"][0] == space.layout.edges[1]
    assert found["bounds"] == [0, edge // 2, edge, found["cut[late]"][1], space.layout.size]
    assert [row[0] for row in found["rows"]] == [0.75, 0.25, 0.75, 0.25]


def test_a_spherical_child_of_task_vectors_differs_from_a_linear_one(
    models: Models, zoo: Path
) -> None:
    rows = {}
    for interpolation in ("lerp", "slerp"):
        space = CrossoverSpace(
            context(models, zoo),
            interpolation=interpolation,
            space="task_vector",
        )
        first, second, _ = seeds(space)
        found = child(space, first, second, split=0.4, ratio=0.5)
        rows[interpolation] = found.genes["rows"]
        assert space.decode(found).parameters == {"space": "task_vector"}
    assert rows["lerp"] == [[0.5, 0.5, 0.0]]
    # task vectors of different skills are nearly orthogonal: √½ each
    assert all(0.55 < weight < 0.71 for row in rows["slerp"] for weight in row[:2])


def test_fewer_than_two_sources_cannot_be_crossed(zoo: Path) -> None:
    one = {"arithmetic": str(zoo / "arithmetic")}
    with pytest.raises(ConfigError, match=r"crossover needs two sources, got 1\. Add one\."):
        CrossoverSpace(
            SearchContext(base=str(zoo / "base"), sources=one, layers=4, dtype="float32")
        )


def test_lines_have_no_angle(models: Models, zoo: Path) -> None:
    with pytest.raises(ConfigError, match=r"angle: lines have none\. Set interpolation: slerp"):
        CrossoverSpace(context(models, zoo), angle="chromosome")


def test_with_the_angle_of_a_chromosome_both_sides_have_the_same_weights_reversed(
    models: Models, zoo: Path
) -> None:
    options: dict[str, Any] = {"interpolation": "slerp", "space": "task_vector"}
    rows = {}
    for angle in ("side", "chromosome"):
        space = CrossoverSpace(context(models, zoo), angle=angle, **options)
        first, second, _ = seeds(space)
        rows[angle] = child(space, first, second, split=0.125, ratio=0.25).genes["rows"]
    space = CrossoverSpace(context(models, zoo), **options)
    x, y = (space.elements(seed).double() for seed in seeds(space)[:2])
    omega = math.acos(float(x @ y / x.norm() / y.norm()))
    expected = [math.sin(t * omega) / math.sin(omega) for t in (0.75, 0.25)]
    left, right = rows["chromosome"]
    assert left[:2] == pytest.approx(expected, rel=1e-9)
    assert right[:2] == left[1::-1]
    assert rows["side"][0][:2] != rows["side"][1][1::-1]


@pytest.mark.parametrize("wrong", [[], {"a": []}, ["mlp", "mlp"]])
def test_chromosomes_that_are_none_are_refused(wrong: Any, models: Models, zoo: Path) -> None:
    with pytest.raises(ConfigError, match="chromosomes: "):
        CrossoverSpace(context(models, zoo), chromosomes=wrong)


def test_chromosomes_that_leave_tensors_out_are_refused(models: Models, zoo: Path) -> None:
    with pytest.raises(PlanError, match="tensors belong to none"):
        CrossoverSpace(context(models, zoo), chromosomes=["attention", "mlp"])


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({}, "bfloat16"),
        ({"chromosomes": ["attention", "mlp", "rest"]}, "float32"),
        ({"interpolation": "slerp", "space": "task_vector"}, "float32"),
    ],
    ids=["lerp", "chromosomes", "slerp"],
)
def test_the_thousandth_child_is_built_to_the_bytes_that_an_engine_was_given(
    options: dict[str, Any], dtype: str, models: Models, zoo: Path, tmp_path: Path
) -> None:
    space = CrossoverSpace(context(models, zoo, dtype), **options)
    before, recipe = map(space.decode, evolve(space, 1000)[-2:])
    assert recipe.segments is not None and len(recipe.segments.rows) > 20
    engine = TransformersEngine(threads=1)
    engine.open(models)
    try:
        engine.load(make_plan(before, models))  # as in a search: of which nothing must be left
        engine.load(make_plan(recipe, models))
        live = {name: t.clone() for name, t in engine.lm.model.state_dict().items()}
    finally:
        engine.close()
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(recipe), encoding="utf-8")
    built = load_file(build(read_recipe(path), tmp_path / "out") / "model.safetensors")
    assert {str(t.dtype) for t in built.values()} == {f"torch.{dtype}"}
    assert built.keys() == {slot.name for slot in models.slots}
    for name, tensor in built.items():
        assert torch.equal(live[name].view(torch.int32), tensor.float().view(torch.int32)), name
