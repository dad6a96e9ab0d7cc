"""M2N2: an archive of niches, whose members are crossed with those that solve what they do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from evomerge.keys import Count
from evomerge.optimizers._breeding import Breeder, Insert, Seeds, SeedsFrom, Variation
from evomerge.optimizers._niches import Capacity, Competition, NicheArchive, NicheMates
from evomerge.types import Parameter


class M2n2(Breeder):
    """Steady-state evolution with competition and attraction; sees example scores, no weights.

    The first candidates are the seeds: every choice of the parameter ``source`` once, or, where
    there is none, P random genomes. Every later one has two parents out of the archive: the first
    is drawn by its fitness, the second by its attraction to the first; where nobody attracts, by
    fitness too. Every gene of a child is drawn uniformly: it says how the parents are crossed.
    Besides its parameters, a child's genes say why it has these parents: ``chosen_by``
    (``attraction``, ``fitness`` or ``warm_up``), ``fitness[0]``, ``fitness[1]``, ``attraction``.

    The examples of all tasks make up one vector, by task and document: a task counts by its number
    of examples, whatever its weight in the fitness. Scores below 0 count as 0: shares of a resource
    are not negative. A failed candidate never enters the archive.

    Args:
        population_size: P, the most members of the archive.
        alpha: how much less an example is worth to each member when many solve it.
        capacity: what an example has to share out: the best score on it in the archive, or one.
        subtract_worst: take the archive's worst score off each example first.
        seeds: ``sources``, or ``starts`` for the points from which a search may start: the sources,
            and sums in which all are equal, one leads or one is left out. Their weights may add up
            to more than one, which crossing the sources alone does not reach.
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
        ConfigError: a lag where candidates enter as they are finished, or mutations of starts.

    Source: Competition and Attraction Improve Model Fusion, GECCO 2025, arXiv:2508.16204. Its ε,
        not printed there, is 1e-6.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        seed: int,
        *,
        population_size: Annotated[int, Field(ge=2, le=100_000)] = 20,
        alpha: Annotated[float, Field(ge=0, le=100)] = 1.0,
        capacity: Capacity = "best",
        subtract_worst: bool = False,
        seeds: SeedsFrom = "sources",
        warm_up: Annotated[int, Field(ge=0)] = 0,
        competition: bool = True,
        attraction: bool = True,
        split_point: bool = True,
        crossover: bool = True,
        mutation: Annotated[float, Field(ge=0)] = 0.0,
        insert: Insert = "asked",
        lag: Count | None = None,
    ) -> None:
        rules = Competition(alpha, capacity, subtract_worst)
        if not competition:
            rules = Competition(0.0, "one", subtract_worst)
        second: Literal["attraction", "fitness"] = "attraction" if attraction else "fitness"
        self.archive = NicheArchive(population_size, rules)
        super().__init__(
            parameters,
            seed,
            seeds=Seeds(
                parameters,
                random=population_size,
                warm_up=warm_up if crossover else 0,
                seeds=seeds,
            ),
            archive=self.archive,
            mates=NicheMates(self.archive, second if crossover else None),
            variation=Variation(split_point, crossover, mutation),
            insert=insert,
            lag=lag,
        )
