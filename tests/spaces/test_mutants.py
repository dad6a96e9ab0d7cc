"""Children with mutations: their recipes lead to the very weights that were kept in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evomerge.analysis.ancestry import _of_sources as shares_of_sources
from evomerge.optimizers.m2n2 import M2n2
from evomerge.recipes import Recipe
from evomerge.spaces import SearchContext
from evomerge.spaces.crossover import CrossoverSpace
from evomerge.types import Candidate, Evaluation, Genome, TaskScores
from evomerge.weights.build import build
from evomerge.weights.library import Library

SHAPES = {"layer1.matrix": (8, 5), "layer1.offset": (5,), "layer2.matrix": (5, 3)}
SOURCES = ("x", "y")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two models of 60 elements, without a config."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name in SOURCES:
        folder = tmp_path_factory.mktemp(name)
        tensors = {key: torch.randn(shape, generator=generator) for key, shape in SHAPES.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        found[name] = str(folder)
    return found


def space_of(folders: dict[str, str], **options: Any) -> CrossoverSpace:
    models = Library().open(folders["x"], folders)
    context = SearchContext(
        base=folders["x"], sources=folders, layers=0, dtype="float32", seed=7, models=models
    )
    return CrossoverSpace(context, **options)


def evolve(space: CrossoverSpace, count: int, **options: Any) -> list[Genome]:
    """The whole genomes of M2N2 whose candidates solve examples by chance."""
    optimizer = M2n2(space.parameters, 5, mutation=0.05, population_size=6, **options)
    genomes: list[Genome] = []
    for number in range(count):
        genome = optimizer.ask(number)
        assert genome is not None
        parents = [genomes[n] for n in genome.parents]
        genomes.append(space.child(genome, parents) if parents else genome)
        solved = np.random.default_rng(number).integers(0, 2, 40).astype(float)
        task = TaskScores(0.0, tuple(range(40)), tuple(solved.tolist()))
        optimizer.tell(number, Evaluation("done", {"task": task}, value=0.0))
    return genomes


def built(recipe: Recipe, folder: Path) -> Tensor:
    """All elements of the checkpoint, in the order of the layout."""
    tensors = load_file(build(recipe, folder) / "model.safetensors")
    return torch.cat([tensors[name].reshape(-1) for name in sorted(tensors)])


@pytest.mark.parametrize(
    "options",
    [
        {"interpolation": "slerp"},
        {"interpolation": "slerp", "angle": "chromosome"},
        {"interpolation": "lerp", "chromosomes": ["layer1.*", "rest"]},
        {"interpolation": "slerp", "space": "task_vector"},
    ],
    ids=["slerp", "one angle", "chromosomes", "task vectors"],
)
def test_the_recipe_of_the_hundredth_mutant_builds_the_weights_that_were_in_memory(
    options: dict[str, Any], folders: dict[str, str], tmp_path: Path
) -> None:
    space = space_of(folders, **options)
    genomes = evolve(space, 100)
    elements: list[Tensor] = []  # step by step, as a loop that keeps weights makes them
    for genome in genomes:
        if genome.parents:
            recipe = space.decode(genome)
            assert recipe.lineage is not None
            parents = [elements[number] for number in genome.parents]
            elements.append(space.individuals.offspring(recipe.lineage.steps[-1], parents))
        else:
            elements.append(space.elements(genome))
    recipe = space.decode(genomes[-1])
    assert recipe.lineage is not None and len(recipe.lineage.steps) > 8
    found = built(recipe, tmp_path / "out")
    if space.space == "task_vector":
        found = found - built(space.decode(genomes[0]), tmp_path / "base")
        torch.testing.assert_close(found, elements[-1], rtol=0, atol=1e-6)
    else:
        assert found.numpy().tobytes() == elements[-1].numpy().tobytes()


def test_a_step_from_weights_is_the_step_of_the_genome(folders: dict[str, str]) -> None:
    space = space_of(folders, interpolation="slerp")
    genomes = evolve(space, 60)
    for genome in genomes[2:]:
        parents = [genomes[number] for number in genome.parents]
        names = [
            p.genes["steps"][-1]["number"] if p.parents else p.genes["source"] for p in parents
        ]
        step = space.step(genome, names, [space.elements(parent) for parent in parents])
        assert step.model_dump(mode="json") == genome.genes["steps"][-1]


def test_an_individual_that_left_memory_is_made_again(folders: dict[str, str]) -> None:
    space = space_of(folders, interpolation="slerp")
    genome = evolve(space, 80)[-1]
    kept = space.elements(genome)
    again = space_of(folders, interpolation="slerp").elements(genome)
    assert again is not kept
    assert torch.equal(again, kept)


def test_a_recorded_mutant_is_the_same_genome_and_gives_the_same_recipe(
    folders: dict[str, str],
) -> None:
    space = space_of(folders)
    for genome in evolve(space, 30):
        again = Genome(json.loads(json.dumps(dict(genome.genes))), genome.parents)
        assert again == genome
        assert space.decode(again).digest == space.decode(genome).digest


def test_a_lineage_holds_each_ancestor_once_and_nobody_else(folders: dict[str, str]) -> None:
    genomes = evolve(space_of(folders), 60)
    ancestors, waiting = set(), [59]
    while waiting:
        number = waiting.pop()
        if genomes[number].parents and number not in ancestors:
            ancestors.add(number)
            waiting += genomes[number].parents
    assert [step["number"] for step in genomes[59].genes["steps"]] == sorted(ancestors)


def test_without_crossover_a_mutant_has_one_parent_and_all_its_weight(
    folders: dict[str, str],
) -> None:
    genomes = evolve(space_of(folders), 10, crossover=False)
    for genome in genomes[2:]:
        assert len(genome.parents) == 1
        assert genome.genes["steps"][-1]["weights"] == [[1.0]]


def test_sources_of_a_mutant_have_their_shares_as_without_noise(folders: dict[str, str]) -> None:
    space = space_of(folders)
    parents = [Genome({**space.initial().genes, "source": name}) for name in SOURCES]
    genes = {"split[all]": 0.25, "ratio[all]": 0.2, "sigma": 0.01, "noise": 2}
    genome = space.child(Genome(genes, (0, 1)), parents)
    candidate = Candidate(number=2, kind="search", genome=genome, recipe=space.decode(genome))
    found = shares_of_sources(candidate)
    assert found == pytest.approx({"x": 0.25 * 0.8 + 0.75 * 0.2, "y": 0.25 * 0.2 + 0.75 * 0.8})
