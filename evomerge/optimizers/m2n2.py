"""M2N2: an archive of niches, whose members are crossed with those that solve what they do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from evomerge.errors import ConfigError
from evomerge.nouns import Evaluation, Genome, Parameter
from evomerge.optimizers import Optimizer
from evomerge.optimizers._draw import draw
from evomerge.optimizers._niches import Archive, Capacity, Competition, Scores, roulette


class M2n2(Optimizer):
    """Competition and attraction, steady state. It sees example scores, never a weight.

    The first candidates are the seeds: every choice of the parameter ``source`` once, or, where
    there is none, P random genomes. Every later one has two parents out of the archive: the first
    is drawn by its fitness, the second by its attraction to the first; where nobody attracts, by
    fitness too. Every gene of a child is drawn uniformly: it says how the parents are crossed.
    Beyond the parameters a child's genes tell why it has these parents: ``chosen_by``
    (``attraction``, ``fitness`` or ``warm_up``), ``fitness[0]``, ``fitness[1]``, ``attraction``.

    The examples of all tasks make up one vector, tasks by name: a task counts by its number of
    examples, whatever its weight in the fitness. A failed candidate never enters the archive.

    Args:
        population_size: P, the most members of the archive.
        alpha: how much an example is worth less to each of many who solve it.
        capacity: of an example: the best score on it in the archive, or one.
        subtract_worst: take the archive's worst score off each example first.
        warm_up: merges of random pairs of seeds before parents are chosen; the paper's 50.
        competition: false for a plain genetic algorithm: alpha 0, capacity one.
        attraction: false draws the second parent by fitness too.
        split_point: false mixes the parents in the same ratio everywhere.
        crossover: false copies the first parent, which finds nothing without mutations.
        insert: candidates enter the archive in the order ``asked``, so that those that are done
            early wait for earlier numbers, or as they are ``finished``.
        lag: how many candidates may be ahead of the archive: candidate n is bred from the results
            of all up to n - lag and no others, on one machine as on many. At least the number
            evaluated at a time, or some wait. By default children are bred from all that entered.

    Raises:
        ConfigError: a lag where candidates enter as they are finished.

    Source: Competition and Attraction Improve Model Fusion, GECCO 2025, arXiv:2508.16204. Its ε,
        not printed there, is 1e-6.
    """

    breeds = True

    def __init__(
        self,
        parameters: Sequence[Parameter],
        seed: int,
        *,
        population_size: Annotated[int, Field(ge=2)] = 20,
        alpha: Annotated[float, Field(ge=0)] = 1.0,
        capacity: Capacity = "best",
        subtract_worst: bool = False,
        warm_up: Annotated[int, Field(ge=0)] = 0,
        competition: bool = True,
        attraction: bool = True,
        split_point: bool = True,
        crossover: bool = True,
        insert: Literal["asked", "finished"] = "asked",
        lag: Annotated[int, Field(ge=1)] | None = None,
    ) -> None:
        super().__init__(parameters, seed)
        if lag is not None and insert == "finished":
            raise ConfigError(
                "optimizer.lag: says which candidates have entered the archive, which with "
                "insert: finished is chance. Set insert: asked, or leave out lag."
            )
        rules = Competition(alpha, capacity, subtract_worst)
        if not competition:
            rules = Competition(0.0, "one", subtract_worst)
        self.archive = Archive(population_size, rules)
        self._attraction, self._split_point, self._crossover = attraction, split_point, crossover
        self._insert, self._lag, self._warm_up = insert, lag, warm_up
        source = next((p for p in self.parameters if p.name == "source"), None)
        self._sources = () if source is None else source.choices
        self._seeds = len(self._sources) or population_size
        self._asked: list[int] = []
        self._grown: list[int] = []  # seeds that did not fail
        self._told: dict[int, Scores | None] = {}  # those that have not entered yet
        self._entered = 0  # how many of those asked, the failed ones too

    def ask(self, number: int) -> Genome | None:
        """A seed, or a child; None until all seeds are told, or as the lag demands."""
        rng = np.random.default_rng([self.seed, number])
        index = len(self._asked)
        if index >= self._seeds and not self._is_due(index):
            return None
        if index < self._seeds or not self.archive.numbers:  # or all seeds failed: once more
            genome = Genome(self._genes(rng) | self._seed_genes(index % self._seeds))
        elif index < self._seeds + self._warm_up and len(self._grown) > 1:
            genome = self._child_of_seeds(rng)
        else:
            genome = self._child(rng)
        self._asked.append(number)
        return genome

    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Let the candidate into the archive, when it is its turn."""
        self._told[number] = _scores(evaluation)
        if self._insert == "finished":
            self._enter(number)
        elif self._lag is None:
            self._enter_in_order(len(self._asked))

    def _is_due(self, index: int) -> bool:
        """Whether all that the candidate is to be bred from have entered."""
        wanted = self._seeds
        if self._lag is not None:
            wanted = max(wanted, index + 1 - self._lag)
            self._enter_in_order(wanted)
        return self._entered >= wanted

    def _enter_in_order(self, count: int) -> None:
        """Let those who come next in, until so many have."""
        while self._entered < count and self._asked[self._entered] in self._told:
            self._enter(self._asked[self._entered])

    def _enter(self, number: int) -> None:
        self._entered += 1
        scores = self._told.pop(number)
        if scores is not None:
            if number in self._asked[: self._seeds]:
                self._grown.append(number)
            self.archive.add(number, scores)

    def _child(self, rng: np.random.Generator) -> Genome:
        """A child of two members, and why of these."""
        scores, rules = self.archive.scores, self.archive.competition
        fitness = rules.fitness(scores)
        first = roulette(fitness, rng)
        attraction = rules.attraction(scores, first)
        chosen_by = "attraction" if self._attraction and attraction.any() else "fitness"
        second = roulette(attraction if chosen_by == "attraction" else fitness, rng)
        genes = self._genes(rng)
        if not self._crossover:
            return Genome(
                {**genes, **self._fixed("split", 1.0), **self._fixed("ratio", 0.0)}
                | {"fitness[0]": float(fitness[first]), "chosen_by": "fitness"},
                (self.archive.numbers[first],),
            )
        if not self._split_point:
            genes |= self._fixed("split", 1.0)
        why = {
            "fitness[0]": float(fitness[first]),
            "fitness[1]": float(fitness[second]),
            "attraction": float(attraction[second]),
            "chosen_by": chosen_by,
        }
        return Genome(genes | why, (self.archive.numbers[first], self.archive.numbers[second]))

    def _child_of_seeds(self, rng: np.random.Generator) -> Genome:
        """A child of two different seeds, whether or not they are still members."""
        first, second = rng.choice(self._grown, size=2, replace=False).tolist()
        return Genome(self._genes(rng) | {"chosen_by": "warm_up"}, (first, second))

    def _genes(self, rng: np.random.Generator) -> dict[str, Any]:
        return {parameter.name: draw(parameter, rng) for parameter in self.parameters}

    def _seed_genes(self, index: int) -> dict[str, Any]:
        return {"source": self._sources[index]} if self._sources else {}

    def _fixed(self, kind: str, value: float) -> dict[str, Any]:
        """The same value for the genes of all chromosomes."""
        return {p.name: value for p in self.parameters if p.name.startswith(f"{kind}[")}


def _scores(evaluation: Evaluation) -> Scores | None:
    """(E,) scores of all examples, tasks by name; None of a candidate that failed.

    What is not a number counts as 0, and so does what is below 0: shares of a resource are not
    negative. Without example scores the fitness is the only one.
    """
    if evaluation.status == "failed":
        return None
    parts = [evaluation.tasks[task].example_scores for task in sorted(evaluation.tasks)]
    scores = [score for part in parts for score in part]
    if not scores:
        scores = [0.0 if evaluation.value is None else evaluation.value]
    found = np.nan_to_num(np.array(scores, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    positive: Scores = np.maximum(found, 0.0)
    return positive
