"""Steady-state breeding: seeds first, then children of members of an archive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from evomerge.errors import ConfigError, Problem
from evomerge.optimizers import Optimizer
from evomerge.optimizers._example_scores import (
    ExampleScores,
    example_scores,
    require_same_documents,
)
from evomerge.optimizers.random import draw
from evomerge.types import Evaluation, Genome, Parameter

Insert = Literal["asked", "finished"]
SeedsFrom = Literal["sources", "starts"]


class Archive(Protocol):
    """The candidates that may become parents."""

    def add(self, number: int, scores: ExampleScores) -> None:
        """Offer a candidate: it is kept or not, and others may have to leave for it."""


class Parents(NamedTuple):
    """The parents of a child.

    Attributes:
        numbers: one or two candidates.
        reasons: genes that record why it has these.
    """

    numbers: tuple[int, ...]
    reasons: Mapping[str, Any]


class MateChoice(Protocol):
    """Chooses which members of an archive are crossed."""

    def choose(self, rng: np.random.Generator) -> Parents:
        """Parents for one child, out of an archive that is not empty."""


@dataclass(frozen=True, slots=True)
class Variation:
    """How a child differs from its parents: by genes, each drawn uniformly from its parameter.

    Attributes:
        split_point: false mixes the parents in one ratio everywhere.
        crossover: false copies the first parent.
        mutation: standard deviation of normal noise on every weight of the child; 0 for none.
    """

    split_point: bool = True
    crossover: bool = True
    mutation: float = 0.0

    def crossing(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """The drawn genes, with splits and ratios of all chromosomes fixed where they are."""
        fixed: dict[str, float] = {}
        if not (self.split_point and self.crossover):
            fixed["split"] = 1.0
        if not self.crossover:
            fixed["ratio"] = 0.0
        return {name: fixed.get(name.partition("[")[0], gene) for name, gene in drawn.items()}

    def noise(self, number: int) -> dict[str, Any]:
        """The genes ``sigma`` and ``noise`` of a child: how much, and which of all noises."""
        return {"sigma": self.mutation, "noise": number} if self.mutation else {}


class Seeds:
    """The candidates without parents: each choice of the parameter ``source``, or random genomes.

    Args:
        parameters: of the space.
        random: how many there are where there is no parameter ``source``.
        warm_up: how many children are of random pairs of seeds, before parents are chosen.
        seeds: ``starts`` where genomes will be given in place of these.

    Attributes:
        alive: numbers of those that did not fail.
        from_starts: whether genomes are given in place of these.
        given: these genomes.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        *,
        random: int,
        warm_up: int,
        seeds: SeedsFrom = "sources",
    ) -> None:
        self.from_starts = seeds == "starts"
        self._sources = next((p.choices for p in parameters if p.name == "source"), ())
        self._random = random
        self.warm_up = warm_up
        self.alive: list[int] = []
        self.given: tuple[Genome, ...] = ()

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.given) or len(self._sources) or self._random

    def genome(self, index: int, drawn: Mapping[str, Any]) -> Genome:
        """The seed that is asked at this place; beyond the last, the first again.

        Args:
            drawn: the genes of a random genome.
        """
        if self.given:
            return self.given[index % self.count]
        own = {"source": self._sources[index % self.count]} if self._sources else {}
        return Genome({**drawn, **own})

    def are_mates(self, index: int) -> bool:
        """Whether the candidate asked at this place is one of the warm-up."""
        return index < self.count + self.warm_up and len(self.alive) > 1

    def choose(self, rng: np.random.Generator) -> Parents:
        """Two different seeds, whether or not they are still in the archive."""
        first, second = rng.choice(self.alive, size=2, replace=False).tolist()
        return Parents((first, second), {"chosen_by": "warm_up"})


class AdmissionQueue:
    """Holds the results of candidates until it is their turn to enter an archive.

    Args:
        insert: in the order ``asked``, so that early results wait for those of earlier candidates,
            or as they are ``finished``.
        lag: how many candidates may be ahead of the archive; None for any number.
        admit: takes a candidate and its evaluation when it is its turn.

    Attributes:
        asked: numbers of the candidates in the order asked.

    Raises:
        ConfigError: a lag where candidates enter as they are finished.
    """

    def __init__(
        self, insert: Insert, lag: int | None, admit: Callable[[int, Evaluation], None]
    ) -> None:
        if lag is not None and insert == "finished":
            text = (
                "needs candidates to enter the archive in the order asked, but with "
                "insert: finished they enter in any order."
            )
            cure = "Set insert: asked, or leave out lag."
            raise ConfigError(Problem(("lag",), text, cure, about=("insert",)))
        self._insert, self._lag, self._admit = insert, lag, admit
        self.asked: list[int] = []
        self._waiting: dict[int, Evaluation] = {}
        self._entered = 0  # of those asked, failed ones included

    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Take in a result, and admit those whose turn has come."""
        self._waiting[number] = evaluation
        if self._insert == "finished":
            self._enter(number)
        elif self._lag is None:
            self._enter_first(len(self.asked))

    def is_ready(self, least: int) -> bool:
        """Whether the next candidate's parents may be chosen.

        Under a lag this admits the results that the candidate may depend on, and no later ones.

        Args:
            least: how many results must have entered in any case.
        """
        if self._lag is not None:
            least = max(least, len(self.asked) + 1 - self._lag)
            self._enter_first(least)
        return self._entered >= least

    def _enter_first(self, count: int) -> None:
        """Admit the first ``count`` candidates asked, up to one without a result."""
        while self._entered < count and self.asked[self._entered] in self._waiting:
            self._enter(self.asked[self._entered])

    def _enter(self, number: int) -> None:
        self._entered += 1
        self._admit(number, self._waiting.pop(number))


class Breeder(Optimizer):
    """Asks seeds, then children of members of an archive, which their results enter.

    A failed candidate never enters. Where all seeds failed, they are asked again.

    Raises:
        ConfigError: mutations, whose lineages begin at sources, of other seeds.
    """

    needs_parents = True

    def __init__(
        self,
        parameters: Sequence[Parameter],
        seed: int,
        *,
        seeds: Seeds,
        archive: Archive,
        mates: MateChoice,
        variation: Variation,
        insert: Insert,
        lag: int | None,
    ) -> None:
        super().__init__(parameters, seed)
        if seeds.from_starts and variation.mutation:
            text = "the steps that lead to a mutated child begin at sources."
            cure = "Set seeds: sources, or mutation: 0."
            raise ConfigError(Problem(("seeds",), text, cure, about=("mutation",)))
        self.takes_seeds = seeds.from_starts
        self._seeds, self._archive, self._mates = seeds, archive, mates
        self._variation = variation
        self._queue = AdmissionQueue(insert, lag, self._admit)
        self._first: ExampleScores | None = None  # of the first candidate that was scored

    def begin_with(self, seeds: Sequence[Genome]) -> None:
        """See `Optimizer.begin_with`."""
        self._seeds.given = tuple(seeds)

    def ask(self, number: int) -> Genome | None:
        """A seed, or a child; None until all seeds have results, or where the lag says to wait."""
        seeds, index = self._seeds, len(self._queue.asked)
        if index >= seeds.count and not self._queue.is_ready(seeds.count):
            return None
        rng = np.random.default_rng([self.seed, number])
        if index < seeds.count or not seeds.alive:
            genome = seeds.genome(index, self._drawn(rng))
        else:
            mates = seeds if seeds.are_mates(index) else self._mates
            parents, reasons = mates.choose(rng)
            genes = self._variation.crossing(self._drawn(rng))
            genome = Genome({**genes, **reasons, **self._variation.noise(number)}, parents)
        self._queue.asked.append(number)
        return genome

    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Add the candidate to the archive, once it is its turn.

        Raises:
            SearchError: it was scored on other documents than the candidates before it.
        """
        self._queue.tell(number, evaluation)

    def _admit(self, number: int, evaluation: Evaluation) -> None:
        if evaluation.status == "failed":
            return
        if number in self._queue.asked[: self._seeds.count] or not self._seeds.alive:
            self._seeds.alive.append(number)
        scores = example_scores(evaluation)
        self._first = self._first or scores
        require_same_documents(number, scores, self._first)
        self._archive.add(number, scores)

    def _drawn(self, rng: np.random.Generator) -> dict[str, Any]:
        """A gene for every parameter, each value as likely as any other on its scale."""
        return {parameter.name: draw(parameter, rng) for parameter in self.parameters}
