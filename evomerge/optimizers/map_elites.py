"""MAP-Elites: the best model of every kind, crossed at random; what niches are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from evomerge.errors import ConfigError, Problem
from evomerge.keys import Count
from evomerge.optimizers._breeding import Breeder, Insert, Parents, Seeds, SeedsFrom, Variation
from evomerge.optimizers._example_scores import ExampleScores, Scores
from evomerge.types import Parameter

Cell = tuple[int, int]

_FEW = 2  # the sum of scores below which a parent may be crossed with itself


class Elite(NamedTuple):
    """The best candidate of its cell."""

    number: int
    score: float


class EliteGrid:
    """Cells along two descriptors, each with the best candidate that falls into it.

    Args:
        cells: along each descriptor.
        descriptors: two tasks; None for the first two by name, or the halves of a single one.

    Attributes:
        elites: cell to its elite.
    """

    def __init__(self, cells: int, descriptors: Sequence[str] | None = None) -> None:
        self.cells, self._descriptors = cells, descriptors
        self.elites: dict[Cell, Elite] = {}

    @property
    def numbers(self) -> list[int]:
        """The candidate numbers of all elites."""
        return [elite.number for elite in self.elites.values()]

    def add(self, number: int, scores: ExampleScores) -> None:
        """Keep a candidate that is better than the elite of its cell, or the first there."""
        first, second = self._described(scores.by_task)
        cell, mean = (self._level(first), self._level(second)), float(np.mean(scores.all))
        if cell not in self.elites or mean > self.elites[cell].score:
            self.elites[cell] = Elite(number, mean)

    def _level(self, scores: Scores) -> int:
        mean = float(np.mean(scores)) if len(scores) else 0.0
        return int(min(mean * self.cells, self.cells - 1))

    def _described(self, by_task: Mapping[str, Scores]) -> Sequence[Scores]:
        """The scores whose means are the two descriptors."""
        names = self._descriptors or list(by_task)[:2]
        if len(names) == 2:
            return [by_task[name] for name in names]
        (alone,) = by_task.values()
        return alone[: len(alone) // 2], alone[len(alone) // 2 :]


@dataclass(frozen=True, slots=True)
class EliteMates:
    """Chooses two parents among the elites.

    Attributes:
        by: ``chance``, all equally likely, or ``score``, each as likely as its mean score.
    """

    grid: EliteGrid
    by: Literal["chance", "score"]

    def choose(self, rng: np.random.Generator) -> Parents:
        """See `MateChoice.choose`."""
        elites = [self.grid.elites[cell] for cell in sorted(self.grid.elites)]
        first, second = (elites[i] for i in self._two_of(elites, rng))
        reasons = {"fitness[0]": first.score, "fitness[1]": second.score, "chosen_by": self.by}
        return Parents((first.number, second.number), reasons)

    def _two_of(self, elites: Sequence[Elite], rng: np.random.Generator) -> list[int]:
        if self.by == "chance":
            indices: list[int] = rng.integers(len(elites), size=2).tolist()
            return indices
        scores = np.array([elite.score for elite in elites])
        total = scores.sum()
        p = scores / total if total else None
        few = bool(total < _FEW or np.count_nonzero(scores) < 2)
        drawn: list[int] = rng.choice(len(elites), size=2, replace=few, p=p).tolist()
        return drawn


class MapElites(Breeder):
    """A grid of two descriptors that keeps the best candidate of every cell.

    A descriptor is the mean score on some examples, those of a task or half of its documents; a
    candidate is better than another by its mean score over all examples. Both parents of a child
    are drawn from the elites. Seeds, genes and order are those of `m2n2`.

    Args:
        cells: along each of the two descriptors, which lie in [0, 1].
        descriptors: two tasks of the fitness; by default the first two by name, and of a single
            one the first half of its examples and the second.
        initial: how many random genomes come first where there is no parameter ``source``.
        parents: drawn by ``chance``, all equally likely, or by their ``score``, as in the code
            published with M2N2: twice the same one only while all scores sum to less than two.
        seeds, mutation, warm_up, insert, lag: as for `m2n2`.

    Raises:
        ConfigError: not two descriptors; a lag where candidates enter as they are finished;
            mutations of starts.

    Source: Mouret & Clune 2015, arXiv:1504.04909.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        seed: int,
        *,
        cells: Count = 10,
        descriptors: list[str] | None = None,
        initial: Count = 20,
        parents: Literal["chance", "score"] = "chance",
        seeds: SeedsFrom = "sources",
        mutation: Annotated[float, Field(ge=0)] = 0.0,
        warm_up: Annotated[int, Field(ge=0)] = 0,
        insert: Insert = "asked",
        lag: Count | None = None,
    ) -> None:
        if descriptors is not None and len(set(descriptors)) != 2:
            raise ConfigError(Problem(("descriptors",), "expected two tasks of the fitness"))
        self.archive = EliteGrid(cells, descriptors)
        super().__init__(
            parameters,
            seed,
            seeds=Seeds(parameters, random=initial, warm_up=warm_up, seeds=seeds),
            archive=self.archive,
            mates=EliteMates(self.archive, parents),
            variation=Variation(mutation=mutation),
            insert=insert,
            lag=lag,
        )
