"""What a run knew after so many generated tokens, read from its store.

``N`` recipes that were evaluated, ``E`` search examples, ``P`` members of a population.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evomerge.config.load import load
from evomerge.optimizers import Optimizer
from evomerge.optimizers.m2n2 import M2n2
from evomerge.store import Store
from evomerge.types import Evaluation
from evomerge.yaml_files import parse_yaml

Floats = NDArray[np.float64]
POPULATION = 20  # M2N2's archive; of the others the best so many, which is what one would keep


class Standing(NamedTuple):
    """A run at some moment.

    Attributes:
        best: number of the candidate with the highest mean skill on the search examples.
        skill: its mean skill.
        coverage: fraction of the search examples that somebody in the population solves.
        coverage_of_best: the same of the best P candidates, for M2N2 too.
    """

    best: int
    skill: float
    coverage: float
    coverage_of_best: float


@dataclass(frozen=True, slots=True)
class Course:
    """The evaluated candidates of one run, in the order in which they were reported.

    A recipe that comes again costs nothing and counts once; baselines are everybody's and count
    for nobody, except those that M2N2 begins with.

    Attributes:
        tokens: (N,) generated up to and with each, on search examples.
        numbers: (N,) of the candidates.
        skills: (N,) mean skill of each.
        solved: (N, E) whether it solves an example.
        archives: (N,) after each the candidates in M2N2's archive; empty for other methods.
        mean: number of the candidate that is CMA-ES's final mean, which is not among the N.
    """

    tokens: Floats
    numbers: tuple[int, ...]
    skills: Floats
    solved: NDArray[np.bool_]
    archives: tuple[tuple[int, ...], ...]
    mean: int | None

    def at(self, tokens: float) -> Standing | None:
        """Where the run was when it had generated so many tokens; None before its first result."""
        count = int(np.searchsorted(self.tokens, tokens, side="right"))
        if not count:
            return None
        ranking = np.argsort(-self.skills[:count], kind="stable")
        of_best = _coverage(self.solved[ranking[:POPULATION]])
        coverage = of_best
        if self.archives:
            members = [self.numbers.index(number) for number in self.archives[count - 1]]
            coverage = _coverage(self.solved[members])
        first = int(ranking[0])
        return Standing(self.numbers[first], float(self.skills[first]), coverage, of_best)

    def chosen(self, tokens: float) -> float:
        """Coverage of P of all candidates so far, each the one that adds most to those before."""
        count = int(np.searchsorted(self.tokens, tokens, side="right"))
        open_examples = np.ones(self.solved.shape[1], dtype=bool)
        for _ in range(POPULATION):
            gains = (self.solved[:count] & open_examples).sum(1)
            open_examples &= ~self.solved[int(gains.argmax())]
        return float(1 - open_examples.mean())


def read_course(folder: Path) -> Course:
    """The course of the run in a folder."""
    with Store.open(folder, read_only=True) as store:
        search = load(parse_yaml(store.run().search_yaml, str(folder))).search
        stage = search.stages[0]
        return course(store, stage.new_optimizer(stage.space.parameters))


def course(store: Store, optimizer: Optimizer) -> Course:
    """The course that a store holds, whose optimizer is led through the same steps once more.

    Args:
        optimizer: a new one, of the run's settings.
    """
    candidates = {candidate.number: candidate for candidate in store.candidates()}
    found: list[tuple[int, Evaluation]] = []
    first_of: dict[str, int] = {}  # recipe to the candidate that it was evaluated for
    archives: list[tuple[int, ...]] = []
    mean = None
    if optimizer.takes_seeds:
        searched = (one for one in candidates.values() if one.kind == "search")
        optimizer.begin_with([one.genome for one in searched if not one.genome.parents])
    for event in store.events():
        candidate = candidates[event.number]
        digest = candidate.recipe.digest
        if candidate.kind == "mean":
            mean = event.number
        if candidate.kind != "search":
            continue
        if event.kind == "ask":
            optimizer.ask(event.number)
            continue
        evaluation = store.evaluation(digest)
        assert evaluation is not None, "reported and not evaluated"
        optimizer.tell(event.number, evaluation)
        if digest not in first_of:
            first_of[digest] = event.number
            found.append((event.number, evaluation))
            archives.append(())
        if isinstance(optimizer, M2n2):
            members = (candidates[number].recipe.digest for number in optimizer.archive.numbers)
            archives[-1] = tuple(first_of[member] for member in members)
    return Course(
        tokens=np.cumsum([evaluation.generated_tokens for _, evaluation in found], dtype=float),
        numbers=tuple(number for number, _ in found),
        skills=np.array([_skill(evaluation) for _, evaluation in found]),
        solved=np.array([_solved(evaluation) for _, evaluation in found]),
        archives=tuple(archives) if isinstance(optimizer, M2n2) else (),
        mean=mean,
    )


def _skill(evaluation: Evaluation) -> float:
    return float(np.mean([scores.score for scores in evaluation.tasks.values()]))


def _solved(evaluation: Evaluation) -> list[Any]:
    """(E,) tasks by name, whatever their order."""
    tasks = sorted(evaluation.tasks.items())
    return [score > 0 for _, scores in tasks for score in scores.example_scores]


def _coverage(solved_PE: NDArray[np.bool_]) -> float:
    return float(solved_PE.any(0).mean())
