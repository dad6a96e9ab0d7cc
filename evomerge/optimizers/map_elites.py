"""MAP-Elites: the best model of every kind, crossed at random; what niches are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from evomerge.errors import ConfigError
from evomerge.optimizers._breeding import Breeder, Choice, Insert, Scores, example_scores
from evomerge.types import Evaluation, Parameter

Cell = tuple[int, int]

_FEW = 2  # the sum of scores below which a parent may be crossed with itself


class Elite(NamedTuple):
    """The best of its cell."""

    number: int
    score: float


class MapElites(Breeder):
    """A grid of two descriptors that keeps the best candidate of every cell.

    A descriptor is the mean score of some examples, those of a task or half of them; a candidate
    is better than another by its mean score over all examples. Both parents of a child are drawn
    from the elites. Seeds, genes and order are those of `m2n2`.

    Args:
        cells: along each of the two descriptors, which lie in [0, 1].
        descriptors: two tasks of the fitness; by default the first two by name, and of a single
            one the first half of its examples and the second.
        initial: how many random genomes come first where there is no parameter ``source``.
        parents: drawn by ``chance``, all equally likely, or by their ``score``, as in the code
            published with M2N2: twice the same one only while all scores sum to less than two.
        mutation, warm_up, insert, lag: as for `m2n2`.

    Raises:
        ConfigError: not two descriptors; a lag where candidates enter as they are finished.

    Source: Mouret & Clune 2015, arXiv:1504.04909.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        seed: int,
        *,
        cells: Annotated[int, Field(ge=1)] = 10,
        descriptors: list[str] | None = None,
        initial: Annotated[int, Field(ge=1)] = 20,
        parents: Literal["chance", "score"] = "chance",
        mutation: Annotated[float, Field(ge=0)] = 0.0,
        warm_up: Annotated[int, Field(ge=0)] = 0,
        insert: Insert = "asked",
        lag: Annotated[int, Field(ge=1)] | None = None,
    ) -> None:
        super().__init__(
            parameters,
            seed,
            random_seeds=initial,
            warm_up=warm_up,
            insert=insert,
            lag=lag,
            mutation=mutation,
        )
        if descriptors is not None and len(set(descriptors)) != 2:
            raise ConfigError("optimizer.descriptors: expected two tasks of the fitness")
        self.cells, self._descriptors, self._parents = cells, descriptors, parents
        self.elites: dict[Cell, Elite] = {}

    def _admit(self, number: int, evaluation: Evaluation) -> None:
        scores = example_scores(evaluation)
        cell = self._cell(scores)
        mean = float(np.mean(np.concatenate(list(scores.values()))))
        if cell not in self.elites or mean > self.elites[cell].score:
            self.elites[cell] = Elite(number, mean)

    def _choose(self, rng: np.random.Generator) -> Choice:
        elites = [self.elites[cell] for cell in sorted(self.elites)]
        first, second = (elites[i] for i in self._two_of(elites, rng))
        why = {"fitness[0]": first.score, "fitness[1]": second.score, "chosen_by": self._parents}
        return Choice((first.number, second.number), why)

    def _two_of(self, elites: Sequence[Elite], rng: np.random.Generator) -> list[int]:
        if self._parents == "chance":
            return [int(place) for place in rng.integers(len(elites), size=2)]
        scores = np.array([elite.score for elite in elites])
        total = scores.sum()
        p = scores / total if total else None
        few = bool(total < _FEW or np.count_nonzero(scores) < 2)
        return [int(place) for place in rng.choice(len(elites), size=2, replace=few, p=p)]

    def _cell(self, scores: Mapping[str, Scores]) -> Cell:
        first, second = self._described(scores)
        return self._level(first), self._level(second)

    def _level(self, scores: Scores) -> int:
        mean = float(np.mean(scores)) if len(scores) else 0.0
        return min(int(mean * self.cells), self.cells - 1)

    def _described(self, scores: Mapping[str, Scores]) -> Sequence[Scores]:
        """The scores of which the means are the descriptors."""
        names = self._descriptors or list(scores)[:2]
        if len(names) == 2:
            return [scores[name] for name in names]
        (alone,) = scores.values()
        return alone[: len(alone) // 2], alone[len(alone) // 2 :]
