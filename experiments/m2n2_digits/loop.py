"""A search in this process: ask, make the child, score it, tell. No store, no engine."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import cmaes
import numpy as np
import torch
from classifier import Classifier, Floats
from digits import SIGMA
from methods import Method
from numpy.typing import NDArray
from starts import NAMES, noise, pretrained_models, write_starts

from evomerge.optimizers.m2n2 import M2n2
from evomerge.optimizers.map_elites import MapElites
from evomerge.recipes import Recipe
from evomerge.spaces import SearchContext
from evomerge.spaces.crossover import CrossoverSpace
from evomerge.types import Evaluation, Genome, TaskScores
from evomerge.weights.library import Library

EVERY = 50  # evaluations between two points of a curve


class Run(NamedTuple):
    """What a run found.

    Attributes:
        curve: evaluations to the test accuracy of the best in training, in [0, 1].
        cpu_seconds: of the whole search.
        evaluations: how many there were.
        recipe: of the best in training at the end; None where no space made it.
        elements: its weights as they were scored.
    """

    curve: Mapping[int, float]
    cpu_seconds: float
    evaluations: int
    recipe: Recipe | None = None
    elements: Floats | None = None


def search(method: Method, seed: int, budget: int) -> Run:
    """One run of a method.

    Args:
        budget: evaluations, the seeds not counted, as in the published code.
    """
    torch.set_num_threads(1)
    start = time.process_time()
    if method.optimizer == "cmaes":
        curve = dict(evolve_weights(seed, budget))
    elif method.optimizer == "brute force":
        curve = {budget: best_mixture(budget)}
    else:
        with tempfile.TemporaryDirectory() as folder:
            population = Population(method, seed, Path(folder))
            curve = dict(population.evolve(budget))
            used = time.process_time() - start
            best = population.best()
            return Run(curve, used, budget, population.recipe(best), population.elements[best])
    return Run(curve, time.process_time() - start, budget)


class Population:
    """A breeding optimizer, the space of its children, and their weights in memory."""

    def __init__(self, method: Method, seed: int, folder: Path) -> None:
        sources = write_starts(folder, pretrained=method.pretrained, seed=seed)
        models = Library().open(sources[NAMES[0]], sources)
        context = SearchContext(
            base=sources[NAMES[0]],
            sources=sources,
            layers=0,
            dtype="float32",
            seed=seed,
            models=models,
        )
        self.space = CrossoverSpace(context, **method.crossing)
        kind = {"m2n2": M2n2, "map_elites": MapElites}[method.optimizer]
        self.optimizer: M2n2 | MapElites = kind(self.space.parameters, seed, **method.options)
        training, self._testing = Classifier.of("search"), Classifier.of("held_out")
        parity = training.labels % 2
        self._classifier, self._even = training.sorted(parity), int((parity == 0).sum())
        self._sources = self.space.individuals.sources
        # all as asked or, where nothing mutates, those in the archive whole
        self.genomes: dict[int, Genome] = {}
        self.elements: dict[int, Floats] = {}  # of those in the archive
        self.solved: dict[int, int] = {}  # how many training images they get right

    def evolve(self, budget: int) -> Iterator[tuple[int, float]]:
        """Evaluations, and the test accuracy of the best in training by then."""
        for number in range(len(NAMES) + budget):
            genome = self.optimizer.ask(number)
            assert genome is not None
            self.elements[number] = self._make(number, genome)
            solved = self._classifier.solved(self.elements[number])
            self.solved[number] = int(solved.sum())
            self.optimizer.tell(number, self._evaluation(solved))
            if len(self.elements) > 100:
                self._forget()
            count = number + 1 - len(NAMES)
            if count > 0 and count % EVERY == 0:
                yield count, float(self._testing.solved(self.elements[self.best()]).mean())

    def best(self) -> int:
        """The oldest of those in the archive that get most training images right."""
        return max(
            self.optimizer.archive.numbers, key=lambda number: (self.solved[number], -number)
        )

    def recipe(self, number: int) -> Recipe:
        """From which the individual can be made again."""
        if "bounds" in self.genomes[number].genes:
            return self.space.decode(self.genomes[number])
        wanted, whole = {number}, dict[int, Genome]()
        for n in range(number, -1, -1):  # parents are older
            if n in wanted:
                wanted |= set(self.genomes[n].parents)
        for n in sorted(wanted):
            genome = self.genomes[n]
            parents = [whole[parent] for parent in genome.parents]
            whole[n] = self.space.child(genome, parents) if parents else genome
        return self.space.decode(whole[number])

    def _make(self, number: int, genome: Genome) -> Floats:
        """The individual's weights."""
        self.genomes[number] = genome
        if not genome.parents:
            return self._sources[genome.genes["source"]].numpy()
        if "noise" in genome.genes:
            parents = [torch.from_numpy(self.elements[parent]) for parent in genome.parents]
            names = [self.genomes[n].genes.get("noise", NAMES[n % 2]) for n in genome.parents]
            step = self.space.step(genome, names, parents)
            return self.space.individuals.offspring(step, parents).numpy()
        whole = self.space.child(genome, [self.genomes[parent] for parent in genome.parents])
        self.genomes[number] = whole
        return self.space.elements(whole).numpy()

    def _evaluation(self, solved: NDArray[np.bool_]) -> Evaluation:
        value = float(solved.mean())
        parts = {"digits": solved}
        if isinstance(self.optimizer, MapElites):
            parts = {"even": solved[: self._even], "odd": solved[self._even :]}
        tasks = {name: _task(part) for name, part in parts.items()}
        return Evaluation("done", tasks, value=value)

    def _forget(self) -> None:
        members = set(self.optimizer.archive.numbers)
        for number in [n for n in self.elements if n not in members]:
            del self.elements[number], self.solved[number]
            if "bounds" in self.genomes[number].genes:
                del self.genomes[number]


def _task(solved: NDArray[np.bool_]) -> TaskScores:
    scores = tuple(solved.astype(np.float64).tolist())
    return TaskScores(float(solved.mean()), _numbered(len(scores)), scores)


@cache
def _numbered(count: int) -> tuple[int, ...]:
    return tuple(range(count))


def evolve_weights(seed: int, budget: int, size: int = 20) -> Iterator[tuple[int, float]]:
    """CMA-ES with a diagonal covariance: evaluations, and the test accuracy of the best so far."""
    training, testing = Classifier.of("search"), Classifier.of("held_out")
    mean = noise(seed, NAMES[0]).astype(np.float64)
    strategy = cmaes.SepCMA(mean, SIGMA, population_size=size, seed=seed)
    best, most = mean.astype(np.float32), -1
    for number in range(0, budget, size):
        results = []
        for _ in range(size):
            weights = strategy.ask()
            narrow = weights.astype(np.float32)
            solved = int(training.solved(narrow).sum())
            if solved > most:
                best, most = narrow, solved
            results.append((weights, -solved / len(training.labels)))
        strategy.tell(results)
        count = number + size
        if count % EVERY == 0:
            yield count, float(testing.solved(best).mean())


def best_mixture(count: int) -> float:
    """The test accuracy of the best in training on the arc between the pretrained models."""
    training, testing = Classifier.of("search"), Classifier.of("held_out")
    first, second = pretrained_models()
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    angle = np.arccos(cosine)
    best, most = first, -1
    for t in np.linspace(0, 1, count):
        a, b = np.sin((1 - t) * angle), np.sin(t * angle)
        weights = ((a * first + b * second) / np.sin(angle)).astype(np.float32)
        solved = int(training.solved(weights).sum())
        if solved > most:
            best, most = weights, solved
    return float(testing.solved(best).mean())
