"""What to try next: ask/tell optimizers, one per file.

The file's name is the optimizer's public name; the keyword-only arguments of its constructor are
its YAML keys.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

from evomerge.types import Aim, Evaluation, Genome, Parameter, Proposal


class Optimizer(ABC):
    """Proposes genomes and learns from their evaluations; higher values are better.

    The same constructor arguments and the same sequence of `ask` and `tell` calls give the same
    genomes: that is how a run resumes.

    Args:
        parameters: (D,) what varies; every genome has exactly one value for each, within bounds.
        seed: of all randomness.

    Attributes:
        needs_parents: whether candidates have parents: the space must be able to cross them.
        cohort_size: how many candidates are raced at a time; None where they cannot be: it looks at
            the score of every example.
        learns_from: ``ranks`` of the candidates of a cohort; or ``values``, which compare with all
            others: those of a race are adjusted for what the examples were.
        takes_start: whether it begins at the initial values of its parameters, and stays near them
            at first: it is worth trying several points before.
        takes_seeds: whether its first candidates are the points from which a search may start.
        divides_budget: whether what it asks for depends on `spent`.
        objectives: names of what it weighs, once it knows its aim.
        spent: the share of what may be asked that was asked so far, in [0, 1]; of a budget of time
            alone nobody knows.
    """

    needs_parents: ClassVar[bool] = False
    cohort_size: int | None = None
    learns_from: ClassVar[Literal["ranks", "values"]] = "values"
    takes_start: ClassVar[bool] = False
    takes_seeds: bool = False
    divides_budget: ClassVar[bool] = False
    spent: float = 0.0

    def __init__(self, parameters: Sequence[Parameter], seed: int) -> None:
        self.parameters = tuple(parameters)
        self.seed = seed
        self.objectives: tuple[str, ...] = ()

    def aim(self, aim: Aim) -> None:
        """Learn what the search is after; called once, before anything else.

        Raises:
            ConfigError: it cannot search for that.
        """
        self.objectives = aim.objectives

    def begin_with(self, seeds: Sequence[Genome]) -> None:
        """Ask for these first, whose genes the space has completed.

        Called before the first `ask`, and only where it `takes_seeds`.
        """
        raise NotImplementedError

    @abstractmethod
    def ask(self, number: int) -> Genome | None:
        """The genome of candidate ``number``, or None while it must see results first.

        It never returns None when the results of all candidates asked so far were reported.
        """

    def ask_ahead(self, number: int) -> Genome | None:
        """A genome to try while `ask` waits for results, or None.

        Called only right after `ask` returned None, so that workers have something to do. What it
        returns counts as asked: the candidate's result will be reported.
        """
        return None

    @abstractmethod
    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Learn how candidate ``number`` did. Results come in any order, of failed ones too.

        Only candidates that `ask` or `ask_ahead` returned are reported, each once.
        """

    @property
    def spread(self) -> float | None:
        """How far candidates stray on average, of the ranges of their genes; None if unknown."""
        return None

    @property
    def has_converged(self) -> bool:
        """Whether what it would ask for next hardly differs any more: the search may end."""
        return False

    def recommend(self) -> Genome | None:
        """The genome that the optimizer believes is best, if it has not asked for it; else None."""
        return None

    def finalists(self) -> Sequence[Proposal]:
        """Genomes one of which may be the best, after a race; that of most trust comes first."""
        best = self.recommend()
        return () if best is None else (Proposal("", best),)
