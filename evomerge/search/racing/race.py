"""Cohorts of candidates that climb rungs, and how they stand at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping

from evomerge.search.racing.answers import Answers
from evomerge.search.racing.cells import lacking
from evomerge.search.racing.cohort import Cohort, Rules, Standing
from evomerge.search.racing.deck import Deck, deeper, rung_sizes
from evomerge.search.racing.reliability import Reliability
from evomerge.search.racing.settings import Racing
from evomerge.types import Cells, Evaluation, Portion, count


class Race:
    """The cohorts of one stage; which examples each candidate lacks, and who stands where.

    Two cohorts may be open; the older one is reported first. Who climbs depends on the scores, not
    on the order in which they came: whoever is sure to go on need not wait for the others.

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
            ahead: also in a cohort after the one that is open.
        """
        return not self.open or not self.open[-1].is_full or (ahead and len(self.open) == 1)

    @property
    def between(self) -> bool:
        """Whether the next candidate begins a cohort."""
        return not self.open or self.open[-1].is_full

    @property
    def rules(self) -> Rules:
        """By which every cohort races but that of the starts."""
        return Rules(self.size, self.racing)

    def most(self, size: int, racing: Racing) -> int:
        """How many examples a cohort of so many candidates may be asked on these rungs."""
        rungs = rung_sizes(racing, self._shares, self._there)
        return racing.of_cohort(size, rungs, ties=True)

    def deeper(self) -> list[Racing]:
        """The rungs of every cohort, and with more of them until the last one is all examples."""
        return deeper(self.racing, self._shares, self._there)

    def join(self, number: int, digest: str, known: Cells, rules: Rules) -> int:
        """Take in a candidate.

        Args:
            known: scores of its recipe from before.
            rules: of the cohort, if it begins one.

        Returns:
            How many examples the cohort may be asked that it begins; 0 where it begins none.
        """
        begins = self.between
        if begins:
            size, racing, _ = rules
            hand = self._deck.deal(racing.first, racing.blocks)
            self.open.append(Cohort(rules, hand, self.most(size, racing)))
        cohort = self.open[-1]
        cohort.join(number, digest)
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
        if cohort.recipes[number] in self._failed or number in cohort.standings:
            return {}
        return self._missing(cohort, number, cohort.reached[number])

    def _missing(self, cohort: Cohort, number: int, rung: int) -> Portion:
        return lacking(cohort.hand.of_rung(rung), self._cells[cohort.recipes[number]])

    @property
    def active(self) -> list[int]:
        """The candidates of open cohorts that have not retired."""
        return [number for cohort in self.open for number in cohort.active]

    def climb(self) -> list[int]:
        """Retire and promote as far as the scores go.

        Returns:
            Those that are asked more examples now.
        """
        before = {n: rung for cohort in self.open for n, rung in cohort.reached.items()}
        for cohort in self.open:
            if cohort.is_full:
                cohort.climb(self._standing)
        climbed = [n for c in self.open for n in c.active if c.reached[n] != before[n]]
        return [number for number in climbed if self.lacking(number)]

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

    def _look_at(self, cohort: Cohort) -> None:
        """Learn how well the first rung ranks; ask more there where it hardly does.

        When a cohort has closed, which a replay sees where it happened: the next one may have been
        dealt its examples before.
        """
        asked = cohort.hand.of_rung(0)
        # two candidates of one recipe are one opinion
        recipes = dict.fromkeys(cohort.recipes[number] for number in sorted(cohort.recipes))
        known = [self._cells[digest] for digest in recipes]
        scored = [cells for cells in known if not lacking(asked, cells)]
        self.reliability.learn(
            [[cells[task][e] for task, ids in asked.items() for e in ids] for cells in scored]
        )
        if self.reliability.is_low and count(asked) < count(self._deck.examples):
            self.racing = self.racing.model_copy(update={"first": 2 * self.racing.first})
            self.reliability.start_again()

    def _standing(self, cohort: Cohort, number: int, rung: int) -> Standing | None:
        """That of a candidate if it retires at a rung; None while it lacks scores there."""
        digest = cohort.recipes[number]
        if self._missing(cohort, number, rung):
            # on this rung, or on an earlier one
            return Standing(-1, -math.inf) if digest in self._failed else None
        return Standing(rung, self.score(self._cells[digest], cohort.hand.of_rung(rung)))

    def score(self, cells: Cells, asked: Portion) -> float:
        """Weighted mean of the tasks' means over some examples."""
        total = math.fsum(self._shares.values())
        return math.fsum(
            self._shares[task] / total * math.fsum(cells[task][e] for e in ids) / len(ids)
            for task, ids in asked.items()
        )

    def _of(self, number: int) -> Cohort:
        return next(cohort for cohort in self.open if number in cohort.recipes)
