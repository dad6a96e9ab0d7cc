"""Cohorts of candidates that climb rungs, and how they stand at the end."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from evomerge.search.racing.answers import Answers
from evomerge.search.racing.cells import lacking
from evomerge.search.racing.deck import Deck, Hand, deeper, rung_sizes
from evomerge.search.racing.reliability import Reliability
from evomerge.search.racing.settings import Racing, most_tied
from evomerge.types import Cells, Evaluation, Portion, count


class Standing(NamedTuple):
    """How a candidate did in its cohort; the larger, the better.

    Attributes:
        rung: at which it retired; -1 if it failed.
        score: weighted mean of the tasks' means over the examples of that rung.
    """

    rung: int
    score: float


@dataclass(slots=True)
class Cohort:
    """Candidates that are asked the same examples.

    Attributes:
        size: how many candidates it takes.
        racing: its rungs.
        hand: the examples.
        most: how many its candidates may be asked together.
        recipes: candidate to the digest of its recipe, in the order in which they joined.
        rung: at which those are that are left.
        active: those that are left.
        standings: of those that have retired.
        reached: candidate to the last rung on which it was asked.
    """

    size: int
    racing: Racing
    hand: Hand
    most: int
    recipes: dict[int, str] = field(default_factory=dict)
    rung: int = 0
    active: list[int] = field(default_factory=list)
    standings: dict[int, Standing] = field(default_factory=dict)
    reached: dict[int, int] = field(default_factory=dict)

    @property
    def rungs(self) -> dict[str, int]:
        """The last rung on which each recipe was asked of those that have retired, by digest."""
        rungs: dict[str, int] = {}
        for number, rung in sorted(self.reached.items()):
            digest = self.recipes[number]
            rungs[digest] = max(rung, rungs.get(digest, 0))
        return rungs

    @property
    def examples(self) -> int:
        """How many were asked of those that have retired, each recipe counted once."""
        return sum(count(self.hand.of_rung(rung)) for rung in self.rungs.values())

    @property
    def is_full(self) -> bool:
        """Whether all of its candidates have joined."""
        return len(self.recipes) == self.size

    @property
    def is_closed(self) -> bool:
        """Whether all of its candidates have retired."""
        return self.is_full and not self.active


class Race:
    """The cohorts of one stage; which examples each candidate lacks, and who stands where.

    Only the oldest open cohort climbs; one more may be on its first rung meanwhile. What it says
    depends on the scores, not on the order in which they came.

    Args:
        racing: the rungs. Where the first hardly ranks, it is twice as large from then on.
        size: P, candidates in a cohort.
        deck: deals the examples.
        shares: of the tasks in a candidate's score.
    """

    def __init__(self, racing: Racing, size: int, deck: Deck, shares: Mapping[str, float]) -> None:
        self.racing, self.size = racing, size
        self._deck, self._shares = deck, shares
        self._there = {task: len(ids) for task, ids in deck.examples.items()}
        self.reliability = Reliability()
        self._answers = Answers(deck.examples, shares)
        self.open: list[Cohort] = []
        self._cells: dict[str, dict[str, dict[int, float]]] = {}  # of open cohorts' recipes
        self._failed: set[str] = set()

    def may_join(self, ahead: bool) -> bool:
        """Whether there is room for a candidate.

        Args:
            ahead: also in a cohort after the one that climbs.
        """
        return not self.open or not self.open[-1].is_full or (ahead and len(self.open) == 1)

    @property
    def between(self) -> bool:
        """Whether the next candidate begins a cohort."""
        return not self.open or self.open[-1].is_full

    def most(self, size: int, racing: Racing | None = None) -> int:
        """How many examples the next cohort may be asked.

        Args:
            size: how many candidates it has.
            racing: its rungs; by default those of every cohort.
        """
        racing = racing or self.racing
        rungs = rung_sizes(racing, self._shares, self._there)
        return racing.of_cohort(size, rungs, ties=True)

    def deeper(self) -> list[Racing]:
        """The rungs of every cohort, and with more of them until the last one is all examples."""
        return deeper(self.racing, self._shares, self._there)

    def asked_all(self, cohort: Cohort, number: int) -> bool:
        """Whether a candidate that has retired was asked all examples of the search."""
        rung = cohort.standings[number].rung
        return rung >= 0 and count(cohort.hand.of_rung(rung)) == count(self._deck.examples)

    def join(
        self,
        number: int,
        digest: str,
        known: Cells,
        size: int | None = None,
        racing: Racing | None = None,
    ) -> int:
        """Take in a candidate.

        Args:
            known: scores of its recipe from before.
            size: candidates of the cohort that it begins; by default P.
            racing: the rungs of the cohort that it begins; by default those of every cohort.

        Returns:
            How many examples the cohort may be asked that it begins; 0 where it begins none.
        """
        begins = self.between
        if begins:
            racing, size = racing or self.racing, size or self.size
            hand = self._deck.deal(racing.first, racing.blocks)
            self.open.append(Cohort(size, racing, hand, self.most(size, racing)))
        cohort = self.open[-1]
        cohort.recipes[number] = digest
        cohort.active.append(number)
        self.learn(digest, known)
        return cohort.most if begins else 0

    def learn(self, digest: str, cells: Cells) -> None:
        """Take in scores of a recipe; of two for the same example, the first counts."""
        known = self._cells.setdefault(digest, {})
        for task, scores in cells.items():
            known[task] = {**scores, **known.get(task, {})}

    def take_in(self, digest: str, evaluation: Evaluation) -> None:
        """Take in the scores of a recipe on some examples, or that it cannot be scored."""
        if evaluation.status == "failed":
            self.fail(digest)
        else:
            self.learn(digest, evaluation.cells)

    def fail(self, digest: str) -> None:
        """Take in that a recipe cannot be scored."""
        self._failed.add(digest)

    def lacking(self, number: int) -> Portion:
        """The examples of its present rung for which a candidate has no score; empty: none."""
        cohort = self._of(number)
        failed = cohort.recipes[number] in self._failed
        return {} if failed or number not in cohort.active else self._missing(cohort, number)

    def _missing(self, cohort: Cohort, number: int) -> Portion:
        return lacking(cohort.hand.of_rung(cohort.rung), self._cells[cohort.recipes[number]])

    @property
    def active(self) -> list[int]:
        """The candidates of open cohorts that have not retired."""
        return [number for cohort in self.open for number in cohort.active]

    def climb(self, waited_for: Container[int] = ()) -> list[int]:
        """Retire and promote as far as the scores go.

        Args:
            waited_for: candidates whose answers are not in; their cohort stays where it is.

        Returns:
            Those that are asked more examples now.
        """
        if not self.open or any(number in waited_for for number in self.open[0].active):
            return []
        cohort, before = self.open[0], self.open[0].rung
        while cohort.is_full and cohort.active and not any(map(self.lacking, cohort.active)):
            self._judge(cohort)
        return [n for n in cohort.active if self.lacking(n)] if cohort.rung != before else []

    def close(self) -> Cohort | None:
        """The oldest cohort once all of its candidates have retired; it is forgotten then."""
        if not self.open or not self.open[0].is_closed:
            return None
        cohort = self.open.pop(0)
        self._look_at(cohort)
        self._answers.add(self._scored(cohort))
        kept = {digest for other in self.open for digest in other.recipes.values()}
        for digest in set(cohort.recipes.values()) - kept:
            del self._cells[digest]
        return cohort

    def adjusted(self) -> dict[str, float]:
        """How good the recipes of closed cohorts are, by digest: see `Answers.adjusted`."""
        return self._answers.adjusted(self.reliability)

    def _scored(self, cohort: Cohort) -> dict[str, Cells]:
        """The scores of a cohort's recipes on what it asked them, by digest; not of failed ones.

        And no others, which may be known from before or, in a replay, from later.
        """
        scored: dict[str, Cells] = {}
        for digest, rung in cohort.rungs.items():
            asked, cells = cohort.hand.of_rung(rung), self._cells[digest]
            if not lacking(asked, cells):
                scored[digest] = {
                    task: {e: cells[task][e] for e in ids} for task, ids in asked.items()
                }
        return scored

    def _judge(self, cohort: Cohort) -> None:
        """Retire whoever does not go on from this rung."""
        scores = {n: self._standing(cohort, n) for n in cohort.active}
        failed = [n for n in cohort.active if scores[n].rung < 0]
        ranked = sorted(set(cohort.active) - set(failed), key=lambda n: (-scores[n].score, n))
        going_on = ranked[: self._cut(cohort, [scores[n].score for n in ranked])]
        for number in cohort.active:
            if number not in going_on:
                cohort.standings[number] = scores[number]
                cohort.reached[number] = cohort.rung
        cohort.active = sorted(going_on)
        cohort.rung += 1

    def _look_at(self, cohort: Cohort) -> None:
        """Learn how well the first rung ranks; ask more there where it hardly does.

        When a cohort has closed, which a replay sees where it happened: the next one may have been
        dealt its examples before.
        """
        asked = cohort.hand.of_rung(0)
        known = [self._cells[cohort.recipes[number]] for number in sorted(cohort.recipes)]
        scored = [cells for cells in known if not lacking(asked, cells)]
        self.reliability.learn(
            [[cells[task][e] for task, ids in asked.items() for e in ids] for cells in scored]
        )
        if self.reliability.is_low and count(asked) < count(self._deck.examples):
            self.racing = self.racing.model_copy(update={"first": 2 * self.racing.first})
            self.reliability.start_again()

    def _cut(self, cohort: Cohort, ranked: Sequence[float]) -> int:
        """How many go on; of those that tie across the cut all, if few enough."""
        if cohort.rung == cohort.racing.rungs - 1 or len(ranked) < 2:
            return 0
        keep = max(2, math.ceil(len(ranked) * cohort.racing.keep))
        tied = sum(score == ranked[keep - 1] for score in ranked[keep:])
        return keep + (tied if tied <= most_tied(cohort.size) else 0)

    def _standing(self, cohort: Cohort, number: int) -> Standing:
        digest = cohort.recipes[number]
        if self._missing(cohort, number):  # it failed on this rung, or on an earlier one
            return Standing(-1, -math.inf)
        return Standing(
            cohort.rung, self.score(self._cells[digest], cohort.hand.of_rung(cohort.rung))
        )

    def score(self, cells: Cells, asked: Portion) -> float:
        """Weighted mean of the tasks' means over some examples."""
        total = math.fsum(self._shares.values())
        return math.fsum(
            self._shares[task] / total * math.fsum(cells[task][e] for e in ids) / len(ids)
            for task, ids in asked.items()
        )

    def _of(self, number: int) -> Cohort:
        return next(cohort for cohort in self.open if number in cohort.recipes)
