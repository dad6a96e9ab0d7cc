"""One stage of a search under way: its optimizer's state, and what it has used up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from evomerge.errors import SearchError
from evomerge.recipes import Recipe
from evomerge.search.budget import Reading
from evomerge.search.spec import Stage
from evomerge.types import FINAL_ESTIMATE, Candidate, Evaluation, Genome, Kind


@dataclass(slots=True)
class Counts:
    """How many candidates were asked for and reported, by kind, and how they did.

    Attributes:
        asked, reported, failed: how many, by kind of candidate.
        best: highest fitness of a searched candidate so far.
        first_error: by kind, that of the first candidate that failed.
    """

    asked: Counter[Kind] = field(default_factory=Counter)
    reported: Counter[Kind] = field(default_factory=Counter)
    failed: Counter[Kind] = field(default_factory=Counter)
    best: float | None = None
    first_error: dict[Kind, str] = field(default_factory=dict)

    def ask(self, candidate: Candidate) -> None:
        """Count a candidate that was asked for."""
        self.asked[candidate.kind] += 1

    def report(self, candidate: Candidate, evaluation: Evaluation) -> None:
        """Count a result."""
        kind = candidate.kind
        self.reported[kind] += 1
        if evaluation.status == "failed":
            self.failed[kind] += 1
            self.first_error.setdefault(kind, evaluation.error or "")
        if kind != "baseline" and evaluation.value is not None:
            self.best = max(evaluation.value, evaluation.value if self.best is None else self.best)

    def unreported(self, kind: Kind) -> int:
        """How many of a kind were asked for and not reported."""
        return self.asked[kind] - self.reported[kind]

    def give_up_if_all_fail(self, kind: Kind, limit: int) -> None:
        """Raise once the first ``limit`` candidates of a kind have all failed.

        Raises:
            SearchError: with the first error.
        """
        if self.failed[kind] == self.reported[kind] >= limit:
            error = self.first_error.get(kind, "none asked")
            raise SearchError(f"the first {self.reported[kind]} candidates all failed: {error}")


class StageRun:
    """A stage under way, from its first candidate to its last.

    Args:
        stage: what may vary, what proposes candidates, and when it ends.
        winners: the best recipes of the earlier stages that it needs, by their names.
        began: the time from which its budget counts.
    """

    def __init__(self, stage: Stage, winners: Mapping[str, Recipe], began: Reading) -> None:
        self.stage, self.name = stage, stage.name
        self.space = stage.new_space(winners) if stage.needs else stage.space
        self.optimizer = stage.new_optimizer(self.space)
        self.counts = Counts()
        self._began = began

    def spent(self, now: Reading) -> bool:
        """Whether the budget is spent."""
        return self.stage.budget.reached(self.counts.asked["search"], *now.since(self._began))

    def candidate(self, number: int, kind: Kind, genome: Genome) -> Candidate:
        """A candidate of this stage."""
        recipe = self.space.decode(genome)
        return Candidate(number=number, kind=kind, genome=genome, recipe=recipe, stage=self.name)

    def final_estimate(self, number: int) -> Candidate | None:
        """The optimizer's final estimate of the best, if it has one; asked for once."""
        genome = None if self.counts.asked[FINAL_ESTIMATE] else self.optimizer.recommend()
        return None if genome is None else self.candidate(number, FINAL_ESTIMATE, genome)

    def learn(self, candidate: Candidate, evaluation: Evaluation, most_failures: int) -> None:
        """Report a result to the optimizer, if it asked for the candidate.

        Raises:
            SearchError: as many as ``most_failures`` have failed, and none has not.
        """
        if candidate.kind == "search":
            self.optimizer.tell(candidate.number, evaluation)
        self.counts.report(candidate, evaluation)
        self.counts.give_up_if_all_fail(candidate.kind, most_failures)
