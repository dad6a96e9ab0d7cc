"""Candidates in flight, and the tell order: when to ask for more, and whose result comes next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from evomerge.executors import Executor, TellOrder
from evomerge.types import Candidate, Evaluation, Job

Step = Callable[[], bool]


class InFlight(ABC):
    """Candidates that were asked for and whose results the optimizer has not seen.

    Attributes:
        candidates: by number, the oldest first.
        arrived: the results that are known, by number, in the order in which they came.
        waiting: recipes at work, by digest, each with the numbers of the candidates that wait.
        asks_ahead: whether `Optimizer.ask_ahead` may fill workers that have nothing to do.
    """

    asks_ahead: ClassVar[bool]

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.candidates: dict[int, Candidate] = {}
        self.arrived: dict[int, Evaluation] = {}
        self.waiting: dict[str, list[int]] = {}

    def evaluate(self, candidate: Candidate, known: Evaluation | None) -> None:
        """Submit a candidate's recipe, unless it is evaluated already or at work."""
        digest = candidate.recipe.digest
        if known is not None:  # the same recipe costs nothing
            self.arrived[candidate.number] = known
        elif digest in self.waiting:
            self.waiting[digest].append(candidate.number)
        else:
            self.waiting[digest] = [candidate.number]
            self.executor.submit(Job(candidate.number, candidate.recipe, "search"))

    def arrive(self, digest: str, evaluation: Evaluation) -> None:
        """Give the result of a recipe to all candidates that wait for it."""
        for number in self.waiting.pop(digest):
            self.arrived[number] = evaluation

    def remove(self, number: int) -> None:
        """Forget a candidate: its result was reported."""
        del self.candidates[number]
        self.arrived.pop(number, None)

    @abstractmethod
    def full(self) -> bool:
        """Whether nothing more may be asked for now."""

    @abstractmethod
    def next(self) -> int | None:
        """The candidate whose result is reported next; None while that is awaited."""

    @abstractmethod
    def out_of_turn(self, number: int) -> bool:
        """Whether a result that has just arrived has to wait for others before it is reported."""

    @abstractmethod
    def turns(self, ask: Step, report: Step) -> tuple[Step, Step]:
        """Both steps of the loop, the one to be tried first in front."""


class AsFinished(InFlight):
    """As results come: a candidate for whichever worker is free, its result as soon as it is there.

    The calls to the optimizer depend on timing.
    """

    asks_ahead = True

    def full(self) -> bool:
        """As many recipes are at work as there are workers."""
        return len(self.waiting) >= self.executor.capacity

    def next(self) -> int | None:
        """The one whose result came first."""
        return next(iter(self.arrived), None)

    def out_of_turn(self, number: int) -> bool:
        """Never."""
        return False

    def turns(self, ask: Step, report: Step) -> tuple[Step, Step]:
        """Report first: the more the optimizer knows when it is asked, the better."""
        return report, ask


class AsAsked(InFlight):
    """In the order of the candidates' numbers, whatever finishes first.

    The calls to the optimizer depend on nothing but its answers: it is asked until ``lookahead``
    candidates are in flight or it wants to see results, then the oldest is reported, and so on.
    """

    asks_ahead = False

    def full(self) -> bool:
        """As many candidates are in flight as may be."""
        return len(self.candidates) >= self.executor.lookahead

    def next(self) -> int | None:
        """The oldest, once its result is there."""
        oldest = next(iter(self.candidates), None)
        return oldest if oldest in self.arrived else None

    def out_of_turn(self, number: int) -> bool:
        """Unless it is the oldest."""
        return number != next(iter(self.candidates))

    def turns(self, ask: Step, report: Step) -> tuple[Step, Step]:
        """Ask first: what has arrived by now must not matter."""
        return ask, report


ORDERS: dict[TellOrder, type[InFlight]] = {"finished": AsFinished, "asked": AsAsked}
