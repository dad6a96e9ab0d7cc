"""M2N2: an archive of niches, whose members are crossed with those that solve what they do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from evomerge.optimizers._breeding import Breeder, Choice, Insert, example_scores
from evomerge.optimizers._niches import Archive, Capacity, Competition, Contest, roulette
from evomerge.types import Evaluation, Parameter


class M2n2(Breeder):
    """Competition and attraction, steady state. It sees example scores, never a weight.

    The first candidates are the seeds: every choice of the parameter ``source`` once, or, where
    there is none, P random genomes. Every later one has two parents out of the archive: the first
    is drawn by its fitness, the second by its attraction to the first; where nobody attracts, by
    fitness too. Every gene of a child is drawn uniformly: it says how the parents are crossed.
    Beyond the parameters a child's genes tell why it has these parents: ``chosen_by``
    (``attraction``, ``fitness`` or ``warm_up``), ``fitness[0]``, ``fitness[1]``, ``attraction``.

    The examples of all tasks make up one vector, tasks by name: a task counts by its number of
    examples, whatever its weight in the fitness. Scores below 0 count as 0: shares of a resource
    are not negative. A failed candidate never enters the archive.

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
        mutation: standard deviation of the normal noise that is added to every weight of a child;
            0 for none, as for models that are trained; the paper's 0.01 evolves from scratch.
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
        mutation: Annotated[float, Field(ge=0)] = 0.0,
        insert: Insert = "asked",
        lag: Annotated[int, Field(ge=1)] | None = None,
    ) -> None:
        super().__init__(
            parameters,
            seed,
            random_seeds=population_size,
            warm_up=warm_up if crossover else 0,
            insert=insert,
            lag=lag,
            mutation=mutation,
        )
        rules = Competition(alpha, capacity, subtract_worst)
        if not competition:
            rules = Competition(0.0, "one", subtract_worst)
        self.archive = Archive(population_size, rules)
        self._attraction, self._split_point, self._crossover = attraction, split_point, crossover

    def _admit(self, number: int, evaluation: Evaluation) -> None:
        self.archive.add(number, np.concatenate(list(example_scores(evaluation).values())))

    def _choose(self, rng: np.random.Generator) -> Choice:
        archive = self.archive
        contest = Contest(archive.competition, archive.scores)
        fitness = contest.fitness()
        first = roulette(fitness, rng)
        of_first = {"fitness[0]": float(fitness[first])}
        if not self._crossover:
            return Choice((archive.numbers[first],), {**of_first, "chosen_by": "fitness"})
        attraction = contest.attraction(first)
        by_attraction = self._attraction and bool(attraction.any())
        second = roulette(attraction if by_attraction else fitness, rng)
        why = {
            **of_first,
            "fitness[1]": float(fitness[second]),
            "attraction": float(attraction[second]),
            "chosen_by": "attraction" if by_attraction else "fitness",
        }
        return Choice((archive.numbers[first], archive.numbers[second]), why)

    def _crossing(self, genes: dict[str, Any]) -> dict[str, Any]:
        if not self._crossover:
            return genes | self._fixed("split", 1.0) | self._fixed("ratio", 0.0)
        return genes if self._split_point else genes | self._fixed("split", 1.0)
