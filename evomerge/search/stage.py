"""One stage of a search under way: its optimizer's state, and what it has used up."""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from evomerge.recipes import Recipe
from evomerge.search.budget import Asked, Reading
from evomerge.search.counts import Counts
from evomerge.search.racing.deck import AllExamples, Deck
from evomerge.search.racing.race import Race, Standing
from evomerge.search.racing.settings import Racing
from evomerge.search.shown import Shown
from evomerge.search.spec import Stage
from evomerge.store import Store
from evomerge.types import (
    FINAL_ESTIMATE,
    Candidate,
    Evaluation,
    Genome,
    Kind,
    Portion,
    Proposal,
    count,
)

log = logging.getLogger(__name__)


# Below so many examples of the search, scoring several finalists in full costs more than the best
# of them is better: 0.617 against 0.615 with 40,000, 0.609 against 0.612 with 16,000.
ENOUGH_FOR_A_CHOICE = 40_000
_FINALISTS = 4  # at most
_PART_FOR_STARTS = 4  # at most a quarter of the budget
_MOST_STARTS = 24


class Result(NamedTuple):
    """How a raced candidate ended.

    Attributes:
        whole: it was asked all examples, or failed: its evaluation is on record.
    """

    standing: Standing
    whole: bool


class StageRun:
    """A stage under way, from its first candidate to its last.

    Args:
        stage: what may vary, what proposes candidates, and when it ends.
        winners: the best recipes of the earlier stages that it needs, by their names.
        began: the time from which its budget counts.

    Attributes:
        race: asks candidates some of the examples; None where they are asked all of them. It
            begins with a cohort of points from which the optimizer may start.
    """

    def __init__(self, stage: Stage, winners: Mapping[str, Recipe], began: Reading) -> None:
        self.stage, self.name = stage, stage.name
        self.space = stage.new_space(winners) if stage.needs else stage.space
        self.optimizer = stage.new_optimizer(self.space)
        self.counts = Counts()
        self.race: Race | None = None
        self._began = began
        self._examples = 0  # of the search
        self._asked = Asked()
        self._starts: list[Proposal] = []
        self._starting: dict[int, Proposal] = {}  # by number, those whose cohort is open
        self._start = Proposal("initial", self.space.initial())
        self._finalists: list[Proposal] | None = None

    @property
    def has_begun(self) -> bool:
        """Whether `begin` was called."""
        return self._examples > 0

    def begin(self, shown: Shown) -> None:
        """Take in what the baselines have shown, before the first candidate; once."""
        self._examples = count(shown.examples)
        racing, shares = self.stage.racing, shown.shares
        if self.optimizer.takes_seeds:
            seeds = self.space.starts(shown.best_first)[:_MOST_STARTS]
            self.optimizer.begin_with([genome for _, genome in seeds])
        starts: list[Proposal] = []
        if self.stage.informed and self.optimizer.takes_start:
            starts = self.space.starts(shown.best_first)[:_MOST_STARTS]
        if racing is not None:
            size = self.optimizer.cohort_size
            assert size is not None
            # a deck of its own: its stage is not to be won on the examples that an earlier one was
            deck = Deck(shown.examples, shares, (shown.seed, self.optimizer.seed))
            self.race = Race(racing, size, deck, shares)
        elif len(starts) > 1:
            whole = Racing(first=self._examples, rungs=1)
            self.race = Race(whole, len(starts), AllExamples(shown.examples), shares)
        if self.race is not None and len(starts) > 1:
            self._starts = self._affordable(starts, self.race)
            if not self._starts:
                log.info("no start is tried: two would take more than a quarter of the budget")
                self.race = None if racing is None else self.race

    def _affordable(self, starts: Sequence[Proposal], race: Race) -> list[Proposal]:
        """As many of the first starts as a part of the budget is enough for; none, or several."""
        parts, budget = _PART_FOR_STARTS, self.stage.budget
        for size in range(len(starts), 1, -1):
            if budget.affords(Asked(), Asked(parts * size, parts * race.most(size))):
                return list(starts[:size])
        return []

    def spent(self, now: Reading) -> bool:
        """Whether the budget is spent, or does not reach for the next candidate or cohort."""
        budget = self.stage.budget
        return not (budget.affords(self._asked, self._next()) and self.has_time(now))

    def _next(self) -> Asked:
        """What is asked next as a whole, and the final estimates."""
        if self.race is None:
            return Asked(1, self._examples)
        if not self.race.between:
            return Asked()  # counted when its cohort began
        size = len(self._starts) or self.race.size
        most = self.race.most(size)
        finalists = self._most_finalists(self._asked.examples + most)
        return Asked(size, most + finalists * self._examples)

    @staticmethod
    def _most_finalists(examples: int) -> int:
        """How many final estimates are asked everything, after so many examples."""
        return _FINALISTS if examples >= ENOUGH_FOR_A_CHOICE else 1

    def ask(self, number: int, *, ahead: bool) -> Proposal | None:
        """The next start or the optimizer's next genome; None while it must see results first.

        Args:
            ahead: whether the optimizer may propose something meanwhile.
        """
        if self._starts:
            start = self._starting[number] = self._starts.pop(0)
            return start
        if self._starting or (self.race is not None and not self.race.may_join(ahead)):
            return None
        genome = self.optimizer.ask(number)
        if genome is None and ahead:
            genome = self.optimizer.ask_ahead(number)
        return None if genome is None else Proposal("", genome)

    def enter(self, candidate: Candidate, store: Store) -> None:
        """Count a candidate that was asked for; it joins the race, if there is one.

        Args:
            store: has the scores of its recipe that are on record.
        """
        self.counts.ask(candidate)
        if candidate.kind != "search":
            return
        examples = self._examples
        if self.race is not None:
            begins, race, digest = self.race.between, self.race, candidate.recipe.digest
            size = len(self._starting) + len(self._starts) or None
            race.join(candidate.number, digest, store.cells(digest), size)
            known = store.evaluation(digest)
            if known is not None and known.status == "failed":
                race.fail(digest)
            examples = race.open[-1].most if begins else 0
        asked = self._asked
        self._asked = Asked(asked.evaluations + 1, asked.examples + examples, asked.tokens)

    def count_tokens(self, tokens: int) -> None:
        """Take in how many tokens the stage has had generated in answers to its portions."""
        self._asked = self._asked._replace(tokens=tokens)

    def races(self, candidate: Candidate) -> bool:
        """Whether a candidate is asked some of the examples at first."""
        return self.race is not None and candidate.kind == "search"

    def has_time(self, now: Reading) -> bool:
        """Whether no limit of time is reached."""
        return self.stage.budget.has_time(now.since(self._began))

    def lacking(self, candidate: Candidate) -> Portion:
        """The examples of its rung that a raced candidate was not asked yet."""
        assert self.race is not None
        return self.race.lacking(candidate.number)

    def take_in(self, digest: str, evaluation: Evaluation) -> None:
        """Take in the scores of a recipe on some examples, or that it cannot be scored."""
        if self.race is not None and evaluation.status == "failed":
            self.race.fail(digest)
        elif self.race is not None:
            self.race.learn(digest, evaluation.cells)

    def racing_on(self) -> list[int]:
        """The candidates of open cohorts that have not retired."""
        open_cohorts = [] if self.race is None or self.has_chosen else self.race.open
        return [number for cohort in open_cohorts for number in cohort.active]

    def promoted(self, waited_for: Container[int] = ()) -> list[int]:
        """Those that are asked more examples now; none while others of a cohort are waited for."""
        if self.race is None or not self.race.open:
            return []
        if any(number in waited_for for number in self.race.open[0].active):
            return []
        return self.race.climb()

    def ended(self) -> dict[int, Result] | None:
        """How the oldest cohort ended, by number; None while it has not.

        After that of the starts, the search begins.
        """
        race = self.race
        if race is None or (cohort := race.close()) is None:
            return None
        asked = self._asked.examples - cohort.most + cohort.examples
        self._asked = self._asked._replace(examples=asked)
        if self._starting:
            best = max(sorted(cohort.standings), key=lambda number: cohort.standings[number])
            self._start = self._starting[best]
            self.optimizer.begin_at(self._start.genome)
            log.info("the search starts from: %s", self._start.label)
        return {
            number: Result(standing, standing.rung < 0 or race.asked_all(cohort, number))
            for number, standing in sorted(cohort.standings.items())
        }

    def candidate(self, number: int, kind: Kind, genome: Genome, label: str = "") -> Candidate:
        """A candidate of this stage."""
        recipe = self.space.decode(genome)
        return Candidate(
            number=number, kind=kind, genome=genome, recipe=recipe, stage=self.name, label=label
        )

    @property
    def has_chosen(self) -> bool:
        """Whether the search of this stage is over, and its final estimates are made."""
        return self._finalists is not None

    def final_estimate(self, number: int) -> Candidate | None:
        """The next of the optimizer's estimates of the best; each is asked for once."""
        if self._finalists is None:
            best = self.optimizer.recommend()
            self._finalists = [] if best is None else [Proposal("", best)]
            if self.race is not None:
                most = self._most_finalists(self._asked.examples)
                self._finalists = list(self.optimizer.finalists()[:most])
                if not self._finalists:  # there was no time for a cohort
                    self._finalists = [self._start]
        if not self._finalists:
            return None
        label, genome = self._finalists.pop(0)
        return self.candidate(number, FINAL_ESTIMATE, genome, label)

    def learn(self, candidate: Candidate, evaluation: Evaluation, most_failures: int) -> None:
        """Report a result to the optimizer, if it asked for the candidate.

        Raises:
            SearchError: as many as ``most_failures`` have failed, and none has not.
        """
        if candidate.number in self._starting:
            del self._starting[candidate.number]
            if not self._starting and self.stage.racing is None:
                self.race = None
        elif candidate.kind == "search":
            self.optimizer.tell(candidate.number, evaluation)
        if candidate.kind == "search":
            tokens = self._asked.tokens + evaluation.generated_tokens
            self._asked = self._asked._replace(tokens=tokens)
        self.counts.report(candidate, evaluation)
        self.counts.give_up_if_all_fail(candidate.kind, most_failures)
