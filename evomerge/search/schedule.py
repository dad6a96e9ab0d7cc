"""What a search asks for: baselines, then the candidates of each stage and its final estimates."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.recipes import Recipe
from evomerge.search.baselines import baselines
from evomerge.search.budget import Reading
from evomerge.search.results import Results
from evomerge.search.spec import Search, Stage
from evomerge.search.stage import StageRun
from evomerge.store import Store
from evomerge.types import FINAL_ESTIMATE, Candidate, Genome


class Schedule:
    """The candidates of a search, one after the other.

    When the budget of a stage is spent and its last result is reported, its optimizer's estimates
    of the best are evaluated; then the next stage begins. Until then workers run out of work: what
    comes next depends on those results.

    Args:
        store: has what spaces have measured of the sources, and what was generated so far.

    Attributes:
        baselines: with which a search is compared; they come first.
        results: the candidates until now.
        stage: under way.
        later: the stages that have not begun.
    """

    def __init__(self, search: Search, store: Store) -> None:
        self._store = store
        self.baselines = baselines(search.context, search.paper_defaults)
        self.results = Results(search.setup.fitness, len(self.baselines))
        self.stage = self._new_stage(search.stages[0], {}, Reading(0, 0))
        self.later = list(search.stages[1:])

    def next(
        self, now: Reading, recorded: Candidate | None = None, *, waits: bool, ahead: bool
    ) -> Candidate | None:
        """The next candidate, or None while results are awaited or all is done.

        Args:
            recorded: while replaying, the candidate that the run went on with: it says whether
                the budget was spent, which the clock cannot.
            waits: whether any results are awaited.
            ahead: whether the optimizer may propose something while it awaits them.
        """
        number = len(self.results.candidates)
        if number < len(self.baselines):
            one = self.baselines[number]._asdict()
            return Candidate(number=number, kind="baseline", genome=Genome({}), **one)
        if len(self.results.reported) < len(self.baselines):
            return None  # values may be relative to the best source
        if not self.stage.has_begun:
            self.stage.begin(self.results.shown(), self._store.tokens(now.seconds))
        if self._goes_on(now, recorded):
            proposed = self.stage.ask(number, ahead=ahead)
            return None if proposed is None else self._searched(number, *proposed)
        if waits and not self.stage.has_chosen:
            return None  # the final estimates depend on it
        estimate = self.stage.final_estimate(number, self.results.candidates)
        if estimate is not None:
            return estimate
        if waits or not self.later:
            return None  # the winner and all that follows depend on it
        stage = self.later.pop(0)
        best = {name: self.results.winner(name).recipe for name in stage.needs}
        self.stage = self._new_stage(stage, best, now)
        return self.next(now, recorded, waits=waits, ahead=ahead)

    def _goes_on(self, now: Reading, recorded: Candidate | None) -> bool:
        """Whether another candidate of the search is to be asked for in this stage."""
        if recorded is None:
            return not (self.stage.is_over(now) or self.stage.counts.asked[FINAL_ESTIMATE])
        return (recorded.kind, recorded.stage) == ("search", self.stage.name)

    def _new_stage(self, stage: Stage, winners: Mapping[str, Recipe], began: Reading) -> StageRun:
        run = StageRun(stage, winners, began)
        run.space.load_grams(self._store.grams())
        return run

    def _searched(self, number: int, label: str, genome: Genome) -> Candidate:
        """The candidate of a genome, which the space completes first if it has parents."""
        if genome.parents:
            parents = [self.results.candidates[parent].genome for parent in genome.parents]
            genome = self.stage.space.child(genome, parents)
        return self.stage.candidate(number, "search", genome, label)
