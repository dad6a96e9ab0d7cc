"""Niches: an archive whose members compete for the examples that they solve.

``P`` members, ``E`` examples; ``s`` scores, ``z`` what is taken of each example, ``c`` its
capacity, ``f`` fitness, ``g`` attraction.

Source: Competition and Attraction Improve Model Fusion, GECCO 2025, arXiv:2508.16204.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from evomerge.optimizers._breeding import Parents
from evomerge.optimizers._example_scores import ExampleScores, Scores

EPSILON = 1e-6  # of the paper's denominators, so that an example that nobody solves counts nothing

Capacity = Literal["best", "one"]


@dataclass(frozen=True, slots=True)
class Competition:
    """How the members of an archive compete for examples.

    Attributes:
        alpha: how much less an example is worth to each member when many solve it; 0: no less.
        capacity: what an example has to share out: the archive's best score on it, or one. The
            two agree on binary scores.
        subtract_worst: take the archive's worst score off each example first.
    """

    alpha: float = 1.0
    capacity: Capacity = "best"
    subtract_worst: bool = False


class Contest:
    """Fitness and attraction of some members; what both need is computed once.

    Args:
        rules: how they compete.
        scores_PE: (P, E), not negative.
    """

    def __init__(self, rules: Competition, scores_PE: Scores) -> None:
        self._alpha = rules.alpha
        self._s = s = scores_PE - scores_PE.min(0) if rules.subtract_worst else scores_PE
        self._z = s.sum(0)
        capacities = s.max(0) if rules.capacity == "best" else np.ones(s.shape[1])
        self._capacities: Scores = capacities
        self._shares: Scores = capacities / (self._z + EPSILON)  # for α = 1, and of attraction

    def fitness(self) -> Scores:
        """(P,) f_i = Σ_j s_ij c_j / (z_j^α + ε), with z_j = Σ_k s_kj."""
        from evomerge.optimizers._gains import gains  # compiled code

        shares, divisor = self._shares, 1.0
        if self._alpha == 0:  # divided last: whole numbers add up exactly, so equals stay equal
            shares, divisor = self._capacities, 1 + EPSILON
        elif self._alpha != 1:
            with np.errstate(over="ignore"):  # what all solve is worth nothing to each
                shares = self._capacities / (np.power(self._z, self._alpha) + EPSILON)
        sums: Scores = gains(self._s, np.zeros_like(shares), shares)
        return sums / divisor

    def attraction(self, first: int) -> Scores:
        """(P,) g(A, B) = Σ_j c_j / (z_j + ε) max(s_Bj − s_Aj, 0) of every B.

        Args:
            first: index of A.
        """
        from evomerge.optimizers._gains import gains

        sums: Scores = gains(self._s, self._s[first], self._shares)
        return sums


class NicheArchive:
    """At most P members, the oldest first.

    Args:
        size: P.
        competition: says who is worst.

    Attributes:
        numbers: (P,) of the candidates that are members.
    """

    def __init__(self, size: int, competition: Competition) -> None:
        self.size, self.competition = size, competition
        self.numbers: list[int] = []
        self._rows: Scores = np.empty((0, 0))  # (P + 1, E), those of members first

    @property
    def scores(self) -> Scores:
        """(P, E) the members' scores on each example."""
        return self._rows[: len(self.numbers)]

    def add(self, number: int, scores: ExampleScores) -> None:
        """Add a candidate; beyond P members the worst leaves, of equally bad ones the oldest."""
        scores_E = scores.all
        if not self.numbers:
            self._rows = np.empty((self.size + 1, len(scores_E)))
        self._rows[len(self.numbers)] = scores_E
        self.numbers.append(number)
        if len(self.numbers) > self.size:
            worst = int(np.argmin(Contest(self.competition, self.scores).fitness()))
            self._rows[worst:-1] = self._rows[worst + 1 :]
            del self.numbers[worst]


@dataclass(frozen=True, slots=True)
class NicheMates:
    """Chooses a first parent by its fitness, and a second one to go with it.

    Attributes:
        second: drawn by its ``attraction`` to the first, or by ``fitness``, as it is too where
            nobody attracts the first; None for a single parent.
    """

    archive: NicheArchive
    second: Literal["attraction", "fitness"] | None = "attraction"

    def choose(self, rng: np.random.Generator) -> Parents:
        numbers = self.archive.numbers
        contest = Contest(self.archive.competition, self.archive.scores)
        fitness = contest.fitness()
        first = roulette(fitness, rng)
        reasons: dict[str, Any] = {"fitness[0]": float(fitness[first])}
        if self.second is None:
            return Parents((numbers[first],), {**reasons, "chosen_by": "fitness"})
        attraction = contest.attraction(first)
        attracted = self.second == "attraction" and bool(attraction.any())
        second = roulette(attraction if attracted else fitness, rng)
        reasons["fitness[1]"] = float(fitness[second])
        reasons["attraction"] = float(attraction[second])
        reasons["chosen_by"] = "attraction" if attracted else "fitness"
        return Parents((numbers[first], numbers[second]), reasons)


def roulette(weights_P: Scores, rng: np.random.Generator) -> int:
    """Draw an index in proportion to its weight; uniformly where no weight is positive."""
    total = np.cumsum(weights_P)
    if not total[-1] > 0:
        return int(rng.integers(len(total)))
    drawn = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
    if drawn == len(total):  # the product rounded up to a total that is hardly above 0
        return int(np.flatnonzero(weights_P)[-1])
    return drawn
