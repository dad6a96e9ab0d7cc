"""One stage of a search under way: what it asks for next, and what it learns."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from evomerge.recipes import Recipe
from evomerge.search.budget import Asked, Reading
from evomerge.search.counts import Counts
from evomerge.search.finalists import best_candidate, most_finalists
from evomerge.search.known import OnRecord
from evomerge.search.racing.cohort import Cohort, Rules, Standing
from evomerge.search.racing.deck import Deck
from evomerge.search.racing.race import Race
from evomerge.search.racing.settings import Racing
from evomerge.search.racing.told import told
from evomerge.search.shown import Shown
from evomerge.search.spec import Stage
from evomerge.search.spending import Spending
from evomerge.search.starts import MOST_STARTS, Starts, first_starts
from evomerge.types import (
    FINAL_ESTIMATE,
    Candidate,
    Evaluation,
    Genome,
    Kind,
    Proposal,
    count,
)

log = logging.getLogger(__name__)


class StageRun:
    """A stage under way, from its first candidate to its last.

    Args:
        stage: what may vary, what proposes candidates, and when it ends.
        winners: the best recipes of the earlier stages that it needs, by their names.
        began: the time from which its budget counts.

    Attributes:
        race: asks candidates some of the examples; None where they are asked all of them.
        converged: whether the search ended before its budget did: its optimizer had converged.
    """

    def __init__(self, stage: Stage, winners: Mapping[str, Recipe], began: Reading) -> None:
        self.stage, self.name = stage, stage.name
        self.space = stage.new_space(winners) if stage.needs else stage.space
        self.optimizer = stage.new_optimizer(self.space.parameters)
        self.counts = Counts()
        self.spending = Spending(stage.budget, began)
        self.race: Race | None = None
        self.converged = False
        self._cohorts = 0  # closed, without that of the starts
        self._closed: Cohort | None = None  # the last one
        self._examples = 0  # of the search
        self._starts: Starts | None = None  # until the best of them is known
        self._start = Proposal("initial", self.space.initial())
        self._finalists: list[Proposal] | None = None
        self._adjusted: dict[int, float] = {}  # of candidates whose cohort is being reported

    @property
    def has_begun(self) -> bool:
        """Whether `begin` was called."""
        return self._examples > 0

    def begin(self, shown: Shown, tokens: int) -> None:
        """Take in what the baselines have shown, before the first candidate; once.

        Args:
            tokens: generated in answers to portions, before this stage.
        """
        self.spending.tokens_before = tokens
        self._examples = count(shown.examples)
        if self.stage.racing is not None:
            size = self.optimizer.cohort_size
            assert size is not None
            # a deck of its own: its stage is not to be won on the examples that an earlier one was
            deck = Deck(shown.examples, shown.shares, (shown.seed, self.optimizer.seed))
            self.race = Race(self.stage.racing, size, deck, shown.shares)
        points = self.space.starts(shown.best_first)
        if self.optimizer.takes_seeds:
            self.optimizer.begin_with([point.genome for point in points[:MOST_STARTS]])
        if self.optimizer.takes_start:
            own = points if self.stage.informed else ()
            depths = () if self.race is None else self.race.deeper()
            known = self.stage.given, own, self.stage.budget
            self._starts = first_starts(*known, self._cost, depths)
            if own and self._starts is None:
                log.info("no start is tried: two would take more than a quarter of the budget")

    def _cost(self, size: int, racing: Racing | None = None) -> Asked:
        """What so many candidates are asked together at most, on these rungs or everything."""
        if self.race is None or racing is None:
            return Asked(size, size * self._examples)
        return Asked(size, self.race.most(size, racing))

    def is_over(self, now: Reading) -> bool:
        """Whether no candidate of the search is to be asked for any more.

        The budget is spent, or does not reach for the next candidate or cohort; or the optimizer
        has converged.
        """
        reaches = self.spending.reaches(self._next())
        return not (reaches and self.spending.has_time(now)) or self._has_converged

    @property
    def _has_converged(self) -> bool:
        between = self._starts is None and (self.race is None or self.race.between)
        return between and self.optimizer.has_converged

    def _next(self) -> Asked:
        """What is asked next as a whole, and the final estimates."""
        if self.race is None:
            return self._cost(1)
        if not self.race.between:
            return Asked()  # counted when its cohort began
        size, racing, _ = self._rules(self.race)
        examples = self.race.most(size, racing)
        estimates = most_finalists(self.optimizer, self.spending.asked.examples + examples)
        return Asked(size, examples + estimates * self._examples)

    def _rules(self, race: Race) -> Rules:
        """By which the next cohort races: of starts even a single one climbs to the last rung."""
        starts = self._starts
        if starts is None or starts.racing is None:
            return race.rules
        return Rules(starts.size, starts.racing, fewest=1)

    def ask(self, number: int, *, ahead: bool) -> Proposal | None:
        """The next start or the optimizer's next genome; None while it must see results first.

        Args:
            ahead: whether the optimizer may propose something meanwhile.
        """
        if self._starts is not None:
            return self._starts.ask(number)
        if self.race is not None and not self.race.may_join(ahead):
            return None
        self.optimizer.spent = self.spending.share
        genome = self.optimizer.ask(number)
        if genome is None and ahead:
            genome = self.optimizer.ask_ahead(number)
        return None if genome is None else Proposal("", genome)

    def enter(self, candidate: Candidate, known: OnRecord | None = None) -> None:
        """Count a candidate that was asked for, which joins the race if it races.

        Args:
            known: what is on record of the recipe of one that races.
        """
        self.counts.ask(candidate)
        if candidate.kind != "search":
            return
        race, examples = self.race, self._examples
        if race is not None and known is not None:
            digest = candidate.recipe.digest
            examples = race.join(candidate.number, digest, known.cells, self._rules(race))
            if known.whole is not None and known.whole.status == "failed":
                race.fail(digest)
        self.spending.ask(examples)

    def race_of(self, candidate: Candidate) -> Race | None:
        """The race in which a candidate is asked some of the examples; None: it is asked all."""
        return self.race if candidate.kind == "search" else None

    def close_cohort(self) -> dict[int, Standing]:
        """How the candidates of the oldest cohort stand, by number; empty while it goes on."""
        if self.race is None or (cohort := self.race.close()) is None:
            return {}
        self.spending.give_back(cohort.most - cohort.examples)
        if self.optimizer.learns_from == "values":
            adjusted, recipes = self.race.adjusted(), cohort.recipes
            self._adjusted = {n: adjusted[recipes[n]] for n in recipes if recipes[n] in adjusted}
        self._cohorts += self._starts is None
        self._closed = cohort
        return dict(sorted(cohort.standings.items()))

    def log_cohort(self) -> None:
        """Say what the last cohort that was closed was asked, and what came of it."""
        race, cohort = self.race, self._closed
        if race is None or cohort is None:
            return
        stage = f"stage {self.name}, " if self.name else ""
        of = f"cohort {self._cohorts}" if self._cohorts else "starts"
        examples = self.spending.asked.examples - sum(one.most for one in race.open)
        log.info("%s%s: %s", stage, of, told(cohort, race, examples, self.optimizer.spread))

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

    def final_estimate(self, number: int, candidates: Sequence[Candidate]) -> Candidate | None:
        """The next of the estimates of the best; each is asked for once.

        With the first one the search of this stage is over: cohorts that have not ended are left.

        Args:
            candidates: of the search, until now.
        """
        if self._finalists is None:
            self.converged = self._has_converged and self.spending.reaches(self._next())
            if self.converged:
                log.info("the optimizer has converged; %s", self.spending)
            self._finalists = self._choose(candidates)
            self.race = None
        if not self._finalists:
            return None
        label, genome = self._finalists.pop(0)
        return self.candidate(number, FINAL_ESTIMATE, genome, label)

    def _choose(self, candidates: Sequence[Candidate]) -> list[Proposal]:
        if self.race is None:
            best = self.optimizer.recommend()
            return [] if best is None else [Proposal("", best)]
        chosen = list(self.optimizer.finalists())
        if not (chosen or self.optimizer.takes_start):
            own = [one for one in candidates if (one.kind, one.stage) == ("search", self.name)]
            chosen = best_candidate(own, self.race.adjusted())
        # there may have been no time for a cohort
        most = most_finalists(self.optimizer, self.spending.asked.examples)
        return chosen[:most] or [self._start]

    def learn(self, candidate: Candidate, evaluation: Evaluation, most_failures: int) -> None:
        """Report a result to whoever asked for the candidate.

        Raises:
            SearchError: as many as ``most_failures`` have failed, and none has not.
        """
        if candidate.kind == "search":
            if self._starts is None:
                value = self._adjusted.get(candidate.number, evaluation.value)
                self.optimizer.tell(candidate.number, replace(evaluation, value=value))
            else:
                self._starts.tell(candidate.number, evaluation)
                self._begin_at(self._starts.best)
            if self.race is None:
                self.spending.generate(evaluation.generated_tokens)
        self.counts.report(candidate, evaluation)
        self.counts.give_up_if_all_fail(candidate.kind, most_failures)

    def _begin_at(self, best: Proposal | None) -> None:
        """Let the optimizer begin at a start, once the best of them is known."""
        if best is None:
            return
        genes = best.genome.genes
        parameters = [replace(one, initial=genes[one.name]) for one in self.space.parameters]
        self._starts, self._start = None, best
        self.optimizer = self.stage.new_optimizer(parameters)
        log.info("the search starts from: %s", best.label)
