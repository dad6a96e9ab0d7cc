"""Candidates in flight, and the tell order: when to ask for more, and whose result comes next."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from evomerge.executors import Executor, TellOrder
from evomerge.types import Candidate, Evaluation, Job, Portion

Step = Callable[[], bool]


class InFlight:
    """Candidates that were asked for and whose results the optimizer has not seen.

    A candidate is asked for whenever a worker is free, and its result is reported as soon as it is
    there: the calls to the optimizer depend on timing.

    Attributes:
        candidates: by number, the oldest first.
        arrived: the results that are known, by number, in the order in which they came.
        waiting: recipes at work, by digest, each with the numbers of the candidates that wait.
        asks_ahead: whether `Optimizer.ask_ahead` may fill workers that have nothing to do.
    """

    asks_ahead: ClassVar[bool] = True

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.candidates: dict[int, Candidate] = {}
        self.arrived: dict[int, Evaluation] = {}
        self.waiting: dict[str, list[int]] = {}

    def evaluate(self, candidate: Candidate, wanted: Evaluation | Portion | None) -> None:
        """Submit a candidate's recipe, unless it is known already or being evaluated.

        Args:
            wanted: the examples to ask, None for all; or the result, where that is known.
        """
        digest = candidate.recipe.digest
        self.candidates[candidate.number] = candidate
        if isinstance(wanted, Evaluation):  # the same recipe costs nothing
            self.arrived[candidate.number] = wanted
        elif digest in self.waiting:
            self.waiting[digest].append(candidate.number)
        else:
            self.waiting[digest] = [candidate.number]
            self.executor.submit(Job(candidate.number, candidate.recipe, "search", wanted))

    def arrive(self, digest: str) -> list[Candidate]:
        """All candidates that wait for a recipe; it is no longer at work."""
        return [self.candidates[number] for number in self.waiting.pop(digest)]

    def remove(self, number: int) -> None:
        """Forget a candidate: its result was reported."""
        del self.candidates[number]
        self.arrived.pop(number, None)

    def full(self) -> bool:
        """Whether as many candidates are in flight as there may be."""
        return len(self.waiting) >= self.executor.capacity

    def next(self) -> int | None:
        """The candidate whose result is reported next; None while there is none to report."""
        return next(iter(self.arrived), None)

    def out_of_turn(self, number: int) -> bool:
        """Whether a result that has just arrived has to wait for others before it is reported."""
        return False

    def turns(self, ask: Step, report: Step) -> tuple[Step, Step]:
        """Both steps of the loop, in the order in which they are tried."""
        return report, ask  # an optimizer that knows more asks for better


class InFlightInOrder(InFlight):
    """Reports results in the order of the candidates' numbers, whatever finishes first.

    The calls to the optimizer depend on nothing but its answers: it is asked until ``lookahead``
    candidates are in flight or it wants to see results, then the oldest is reported, and so on.
    """

    asks_ahead = False

    def full(self) -> bool:
        """See `InFlight.full`."""
        return len(self.candidates) >= self.executor.lookahead

    def next(self) -> int | None:
        """See `InFlight.next`."""
        oldest = next(iter(self.candidates), None)
        return oldest if oldest in self.arrived else None

    def out_of_turn(self, number: int) -> bool:
        """See `InFlight.out_of_turn`."""
        return number != next(iter(self.candidates))

    def turns(self, ask: Step, report: Step) -> tuple[Step, Step]:
        """See `InFlight.turns`."""
        return ask, report  # what has arrived by now must not matter


ORDERS: dict[TellOrder, type[InFlight]] = {"finished": InFlight, "asked": InFlightInOrder}
