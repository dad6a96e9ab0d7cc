"""The search that mergekit-evolve makes, on evomerge's recipes and engine.

pycma's CMA-ES as ``mergekit/scripts/evolve.py`` calls it: from equal weights that add up to one,
and densities of 1; sigma 1/6 in the units of the weights; the library's own population; no bounds,
the absolute values taken. Every candidate is asked everything, and the best ever measured is the
recipe.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cma

from evomerge.config.load import load
from evomerge.scoring import fitness_value
from evomerge.scoring.tasks import example_counts
from evomerge.types import Genome, Job, Parameter
from evomerge.worker import Worker
from experiments.racing.courses import State, best_ever
from experiments.racing.methods import METHODS, PEER
from experiments.racing.zoos import Zoo

SIGMA = 1 / 6


def course(zoo: Zoo, seed: int, file: Path, examples: int) -> list[State]:
    """What it recommends after every candidate that is better than all before it.

    Args:
        file: where the candidates and their values are kept; read where it is there.
        examples: of all candidates together.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        found = _search(zoo, seed, examples)
        file.write_text(json.dumps(found), encoding="utf-8")
    kept = json.loads(file.read_text(encoding="utf-8"))
    return best_ever(kept["genomes"], kept["values"], kept["each"])


def means(file: Path) -> list[State]:
    """The mean of its distribution after every generation."""
    kept = json.loads(file.read_text(encoding="utf-8"))
    return [State(one["examples"], (one["genes"],)) for one in kept["means"]]


def _search(zoo: Zoo, seed: int, examples: int) -> dict[str, Any]:
    loaded = load(zoo.search, METHODS[PEER].overrides(zoo, seed))
    space, fitness = loaded.search.stages[0].space, loaded.file.fitness
    each = sum(example_counts(fitness)["search"].values())
    genomes: list[dict[str, float]] = []
    values: list[float] = []
    averages: list[dict[str, Any]] = []

    def cost(point: Any) -> float:
        genes = _genes(space.parameters, point)
        job = Job(len(genomes), space.decode(Genome(genes)), "search")
        genomes.append(genes)
        values.append(fitness_value(fitness, worker.evaluate(job).tasks))
        return -values[-1]

    def note(es: Any) -> None:
        genes = _genes(space.parameters, es.result.xfavorite)
        averages.append({"examples": each * len(genomes), "genes": genes})

    worker = Worker(loaded.search.setup)
    options = {"maxfevals": examples // each, "seed": seed + 1, "verbose": -9}
    try:
        cma.fmin2(
            cost,
            _start(space.parameters, len(loaded.file.sources)),
            SIGMA,
            options,
            callback=note,
        )
    finally:
        worker.close()
    return {"genomes": genomes, "values": values, "means": averages, "each": each}


def _start(parameters: Sequence[Parameter], sources: int) -> list[float]:
    """Its ``initial_genotype``."""
    return [1 / sources if p.name.startswith("weight.") else 1.0 for p in parameters]


def _genes(parameters: Sequence[Parameter], point: Sequence[float]) -> dict[str, float]:
    """Its ``genotype_merge_config``: absolute weights, absolute densities of at most 1."""
    genes = {p.name: abs(float(x)) for p, x in zip(parameters, point, strict=True)}
    return {n: x if n.startswith("weight.") else min(x, 1.0) for n, x in genes.items()}
