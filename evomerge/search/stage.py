"""One stage of a search under way: its optimizer's state, and what it has used up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping
from dataclasses import dataclass, field

from evomerge.errors import SearchError
from evomerge.optimizers import Finalist
from evomerge.recipes import Recipe
from evomerge.search.budget import Asked, Reading
from evomerge.search.racing.deck import Deck
from evomerge.search.racing.race import Cohort, Race
from evomerge.search.spec import Stage
from evomerge.store import Store
from evomerge.types import (
    FINAL_ESTIMATE,
    Candidate,
    Cells,
    Evaluation,
    Genome,
    Kind,
    Portion,
    count,
)


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


# Below so many examples of the search, scoring several finalists in full costs more than the best
# of them is better: 0.617 against 0.615 with 40,000, 0.609 against 0.612 with 16,000.
ENOUGH_FOR_A_CHOICE = 40_000


class StageRun:
    """A stage under way, from its first candidate to its last.

    Args:
        stage: what may vary, what proposes candidates, and when it ends.
        winners: the best recipes of the earlier stages that it needs, by their names.
        began: the time from which its budget counts.

    Attributes:
        race: asks candidates some of the examples; None where they are asked all of them.
    """

    def __init__(self, stage: Stage, winners: Mapping[str, Recipe], began: Reading) -> None:
        self.stage, self.name = stage, stage.name
        self.space = stage.new_space(winners) if stage.needs else stage.space
        self.optimizer = stage.new_optimizer(self.space)
        self.counts = Counts()
        self.race: Race | None = None
        self._began = began
        self._examples = 0  # of the search, and asked of the candidates so far
        self._asked = Asked()
        self._finalists: list[Finalist] | None = None

    def begin(self, examples: Portion, shares: Mapping[str, float], seeds: tuple[int, int]) -> None:
        """Take in what the baselines have shown, before the first candidate; once.

        Args:
            examples: all that the search may ask.
            shares: of the tasks in a candidate's score.
            seeds: of the fitness and of the search.
        """
        if self._examples:
            return
        self._examples = count(examples)
        if self.stage.racing is not None:
            size = self.optimizer.cohort_size
            assert size is not None
            self.race = Race(self.stage.racing, size, Deck(examples, shares, seeds), shares)

    def spent(self, now: Reading) -> bool:
        """Whether the budget is spent, or does not reach for the next candidate or cohort."""
        budget, race = self.stage.budget, self.race
        more = Asked(1, self._examples)
        if race is not None:
            whole = Asked(race.size, race.racing.examples(race.size) + self._examples)
            more = whole if race.between else Asked()
        return not (budget.affords(self._asked, more) and budget.has_time(now.since(self._began)))

    def ask(self, number: int, *, ahead: bool) -> Genome | None:
        """The optimizer's next genome, or None while it must see results first.

        Args:
            ahead: whether it may propose something meanwhile.
        """
        if self.race is not None and not self.race.may_join(ahead):
            return None
        genome = self.optimizer.ask(number)
        return self.optimizer.ask_ahead(number) if genome is None and ahead else genome

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
            race.join(candidate.number, digest, store.cells(digest))
            known = store.evaluation(digest)
            if known is not None and known.status == "failed":
                race.fail(digest)
            examples = race.racing.examples(race.size) if begins else 0
        self._asked = Asked(
            self._asked.evaluations + 1, self._asked.examples + examples, self._asked.tokens
        )

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

    def learn_cells(self, digest: str, cells: Cells) -> None:
        """Take in scores of a recipe."""
        if self.race is not None:
            self.race.learn(digest, cells)

    def fail(self, digest: str) -> None:
        """Take in that a recipe cannot be scored."""
        if self.race is not None:
            self.race.fail(digest)

    def racing_on(self) -> list[int]:
        """The candidates of open cohorts that have not retired."""
        open_cohorts = [] if self.race is None or self.has_chosen else self.race.open
        return [number for cohort in open_cohorts for number in cohort.active]

    def promoted(self, waited_for: Container[int] = ()) -> list[int]:
        """Those that are asked more examples now; none while others of a cohort are waited for."""
        assert self.race is not None
        if not self.race.open or any(n in waited_for for n in self.race.open[0].active):
            return []
        return self.race.climb()

    def ended(self) -> Cohort | None:
        """The oldest cohort, if it has ended."""
        assert self.race is not None
        return self.race.close()

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
            self._finalists = [] if best is None else [Finalist("", best)]
            if self.race is not None:
                some = None if self._asked.examples >= ENOUGH_FOR_A_CHOICE else 1
                self._finalists = list(self.optimizer.finalists()[:some])
        if not self._finalists:
            return None
        label, genome = self._finalists.pop(0)
        return self.candidate(number, FINAL_ESTIMATE, genome, label)

    def learn(self, candidate: Candidate, evaluation: Evaluation, most_failures: int) -> None:
        """Report a result to the optimizer, if it asked for the candidate.

        Raises:
            SearchError: as many as ``most_failures`` have failed, and none has not.
        """
        if candidate.kind == "search":
            self.optimizer.tell(candidate.number, evaluation)
            tokens = self._asked.tokens + evaluation.generated_tokens
            self._asked = self._asked._replace(tokens=tokens)
        self.counts.report(candidate, evaluation)
        self.counts.give_up_if_all_fail(candidate.kind, most_failures)
