"""Steady-state breeding: seeds first, then children of whoever is in an archive."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import ConfigError
from evomerge.optimizers import Optimizer
from evomerge.optimizers._draw import draw
from evomerge.types import Evaluation, Genome, Parameter

Insert = Literal["asked", "finished"]
Scores = NDArray[np.float64]


class Choice(NamedTuple):
    """The parents of a child, and genes that say why it has these."""

    parents: tuple[int, ...]
    why: dict[str, Any]


class Breeder(Optimizer):
    """The order in which candidates are asked and enter an archive; the archive is a subclass's.

    The first candidates are the seeds: every choice of the parameter ``source`` once, or, where
    there is none, random genomes. Every gene of a child is drawn uniformly from its parameter: it
    says how the parents are crossed. A failed candidate never enters.

    Args:
        random_seeds: how many seeds there are without a ``source``.
        warm_up: children of random pairs of seeds, before parents are chosen.
        insert: candidates enter in the order ``asked``, so that those that are done early wait
            for earlier numbers, or as they are ``finished``.
        lag: how many candidates may be ahead of the archive; None for any number.
        mutation: standard deviation of the noise on every weight of a child, the gene ``sigma``;
            the gene ``noise`` says which noise. 0 for none.

    Raises:
        ConfigError: a lag where candidates enter as they are finished.
    """

    needs_parents = True

    def __init__(
        self,
        parameters: Sequence[Parameter],
        seed: int,
        *,
        random_seeds: int,
        warm_up: int,
        insert: Insert,
        lag: int | None,
        mutation: float,
    ) -> None:
        super().__init__(parameters, seed)
        if lag is not None and insert == "finished":
            raise ConfigError(
                "optimizer.lag: says which candidates have entered the archive, which with "
                "insert: finished is chance. Set insert: asked, or leave out lag."
            )
        self._insert, self._lag, self._warm_up = insert, lag, warm_up
        self._mutation = mutation
        source = next((p for p in self.parameters if p.name == "source"), None)
        self._sources = () if source is None else source.choices
        self._seeds = len(self._sources) or random_seeds
        self._asked: list[int] = []
        self._grown: list[int] = []  # seeds that did not fail
        self._told: dict[int, Evaluation] = {}  # those that have not entered yet
        self._entered = 0  # how many of those asked, the failed ones too

    @abstractmethod
    def _admit(self, number: int, evaluation: Evaluation) -> None:
        """Let a candidate that did not fail into the archive."""

    @abstractmethod
    def _choose(self, rng: np.random.Generator) -> Choice:
        """Parents out of an archive that is not empty."""

    def ask(self, number: int) -> Genome | None:
        """A seed, or a child; None until all seeds are told, or as the lag demands."""
        rng = np.random.default_rng([self.seed, number])
        index = len(self._asked)
        if index >= self._seeds and not self._is_due(index):
            return None
        if index < self._seeds or not self._grown:  # or all seeds failed: once more
            genome = Genome(self._genes(rng) | self._seed_genes(index % self._seeds))
        else:
            warm = index < self._seeds + self._warm_up and len(self._grown) > 1
            parents, why = self._pair_of_seeds(rng) if warm else self._choose(rng)
            genes = self._crossing(self._genes(rng)) | why
            if self._mutation:
                genes |= {"sigma": self._mutation, "noise": number}
            genome = Genome(genes, parents)
        self._asked.append(number)
        return genome

    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Let the candidate into the archive, when it is its turn."""
        self._told[number] = evaluation
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
        evaluation = self._told.pop(number)
        self._entered += 1
        if evaluation.status == "failed":
            return
        if number in self._asked[: self._seeds] or not self._grown:
            self._grown.append(number)
        self._admit(number, evaluation)

    def _pair_of_seeds(self, rng: np.random.Generator) -> Choice:
        """Two different seeds, whether or not they are still in the archive."""
        first, second = rng.choice(self._grown, size=2, replace=False).tolist()
        return Choice((first, second), {"chosen_by": "warm_up"})

    def _crossing(self, genes: dict[str, Any]) -> dict[str, Any]:
        """The genes of a child, some of them perhaps fixed."""
        return genes

    def _genes(self, rng: np.random.Generator) -> dict[str, Any]:
        return {parameter.name: draw(parameter, rng) for parameter in self.parameters}

    def _seed_genes(self, index: int) -> dict[str, Any]:
        return {"source": self._sources[index]} if self._sources else {}

    def _fixed(self, kind: str, value: float) -> dict[str, Any]:
        """The same value for the genes of all chromosomes."""
        return {p.name: value for p in self.parameters if p.name.startswith(f"{kind}[")}


def example_scores(evaluation: Evaluation) -> dict[str, Scores]:
    """Task to the (E,) scores of its examples, tasks by name.

    What is not a number counts as 0, and so does what is below 0. Without example scores the
    fitness is the only one.
    """
    found = {task: evaluation.tasks[task].example_scores for task in sorted(evaluation.tasks)}
    if not any(found.values()):
        found = {"": (0.0 if evaluation.value is None else evaluation.value,)}
    return {task: _shares(scores) for task, scores in found.items()}


def _shares(scores: Sequence[float]) -> Scores:
    found = np.array(scores, np.float64)
    found[~(found > 0) | np.isinf(found)] = 0.0
    return found
