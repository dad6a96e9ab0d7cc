"""One cohort: who goes on to the next rung, who retires, and as soon as that is certain."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from evomerge.search.racing.deck import Hand
from evomerge.search.racing.settings import Racing, most_tied
from evomerge.types import count


class Standing(NamedTuple):
    """How a candidate did in its cohort; the larger, the better.

    Attributes:
        rung: at which it retired; -1 if it failed.
        score: weighted mean of the tasks' means over the examples of that rung.
    """

    rung: int
    score: float


class Rules(NamedTuple):
    """How a cohort races.

    Attributes:
        size: how many candidates it takes.
        racing: its rungs.
        fewest: how many must be left for them to go on: one alone is compared with none.
    """

    size: int
    racing: Racing
    fewest: int = 2


@dataclass(slots=True)
class Cohort:
    """Candidates that are asked the same examples.

    Attributes:
        hand: the examples.
        most: how many its candidates may be asked together.
        recipes: candidate to the digest of its recipe, in the order in which they joined.
        reached: candidate to the rung at which it is, or retired.
        standings: of those that have retired.
    """

    rules: Rules
    hand: Hand
    most: int
    recipes: dict[int, str] = field(default_factory=dict)
    reached: dict[int, int] = field(default_factory=dict)
    standings: dict[int, Standing] = field(default_factory=dict)
    _settled: int = 0  # rungs from which all have gone on or retired
    _known: dict[tuple[int, int], Standing] = field(default_factory=dict)

    def join(self, number: int, digest: str) -> None:
        """Take in a candidate, on the first rung."""
        self.recipes[number], self.reached[number] = digest, 0

    @property
    def active(self) -> list[int]:
        """Those that have not retired."""
        return [number for number in self.recipes if number not in self.standings]

    @property
    def rungs(self) -> dict[str, int]:
        """The last rung on which each recipe was asked of those that have retired, by digest."""
        rungs: dict[str, int] = {}
        for number in sorted(self.standings):
            digest = self.recipes[number]
            rungs[digest] = max(self.reached[number], rungs.get(digest, 0))
        return rungs

    @property
    def examples(self) -> int:
        """How many were asked of those that have retired, each recipe counted once."""
        return sum(count(self.hand.of_rung(rung)) for rung in self.rungs.values())

    @property
    def is_full(self) -> bool:
        """Whether all of its candidates have joined."""
        return len(self.recipes) == self.rules.size

    @property
    def is_closed(self) -> bool:
        """Whether all of its candidates have retired."""
        return self.is_full and not self.active

    def climb(self, standing: Callable[[Cohort, int, int], Standing | None]) -> None:
        """Let go on whoever is sure to, and retire those of a rung on which all are known.

        Args:
            standing: that of a candidate if it retires at a rung; None while it is not known there.
        """
        most = sum(rung >= self._settled for rung in self.reached.values())
        for rung in range(self._settled, self.rules.racing.rungs):
            there = [number for number, at in self.reached.items() if at >= rung]
            for number in there:
                if (number, rung) not in self._known:
                    one = standing(self, number, rung)
                    if one is not None:
                        self._known[number, rung] = one
            most = self._judge(rung, there, most)

    def _judge(self, rung: int, there: Sequence[int], most: int) -> int:
        """Let go on from one rung.

        Args:
            there: who is on it, or was.
            most: how many will ever have been on it, at most.

        Returns:
            That of the next rung.
        """
        known = {n: self._known[n, rung] for n in there if (n, rung) in self._known}
        ranked = sorted(
            (n for n in known if known[n].rung >= 0), key=lambda n: (-known[n].score, n)
        )
        most -= len(known) - len(ranked)
        size, racing, fewest = self.rules
        last = rung == racing.rungs - 1
        keep = max(2, math.ceil(most * racing.keep))
        if rung == self._settled and len(known) == len(there):
            cut = 0 if last else self._cut(keep, [known[n].score for n in ranked])
            self.standings |= {n: known[n] for n in there if n not in ranked[:cut]}
            self._settled, most = rung + 1, cut
        else:
            # even if all that are not known here come before them
            cut = 0 if last or len(ranked) < fewest else max(0, len(ranked) - most + keep)
            most = min(most, keep + most_tied(size))
        for number in ranked[:cut]:
            self.reached[number] = max(self.reached[number], rung + 1)
        return most

    def _cut(self, keep: int, ranked: Sequence[float]) -> int:
        """How many of all go on: those that are kept, and who ties with the last, if few do."""
        if len(ranked) < self.rules.fewest:
            return 0
        tied = sum(score == ranked[keep - 1] for score in ranked[keep:])
        return min(keep, len(ranked)) + (tied if tied <= most_tied(self.rules.size) else 0)
