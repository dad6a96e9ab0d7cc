"""An archive whose members compete for the examples that they solve.

``P`` individuals, ``E`` examples; ``s`` scores, ``z`` what is taken of each example, ``c`` its
capacity, ``f`` fitness, ``g`` attraction.

Source: Competition and Attraction Improve Model Fusion, GECCO 2025, arXiv:2508.16204.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import SearchError

Scores = NDArray[np.float64]

EPSILON = 1e-6  # of the paper's denominators, so that an example that nobody solves counts nothing

Capacity = Literal["best", "one"]


@dataclass(frozen=True, slots=True)
class Competition:
    """How members compete.

    Attributes:
        alpha: how much an example is worth less to each of many who solve it; 0 for not at all.
        capacity: of an example: the archive's best score on it, or one. Of binary scores both
            give the same.
        subtract_worst: take the archive's worst score off each example first.
    """

    alpha: float = 1.0
    capacity: Capacity = "best"
    subtract_worst: bool = False

    def relative(self, scores_PE: Scores) -> Scores:
        """(P, E) the scores that are competed for."""
        return scores_PE - scores_PE.min(0) if self.subtract_worst else scores_PE

    def fitness(self, scores_PE: Scores) -> Scores:
        """(P,) f_i = Σ_j s_ij c_j / (z_j^α + ε), with z_j = Σ_k s_kj.

        Args:
            scores_PE: (P, E), not negative.
        """
        s = self.relative(scores_PE)
        z = s.sum(0)
        shared = z if self.alpha == 1 else np.power(z, self.alpha)
        found: Scores = (s * (self._capacities(s) / (shared + EPSILON))).sum(1)
        return found

    def attraction(self, scores_PE: Scores, first: int) -> Scores:
        """(P,) g(A, B) = Σ_j c_j / (z_j + ε) max(s_Bj − s_Aj, 0) of every B.

        Args:
            scores_PE: (P, E), not negative.
            first: index of A.
        """
        s = self.relative(scores_PE)
        gain = np.maximum(s - s[first], 0.0)
        found: Scores = (gain * (self._capacities(s) / (s.sum(0) + EPSILON))).sum(1)
        return found

    def _capacities(self, s: Scores) -> Scores:
        """(E,) c_j."""
        return s.max(0) if self.capacity == "best" else np.ones(s.shape[1])


class Archive:
    """At most P members, the oldest first.

    Args:
        size: P.
        competition: who is worst.

    Attributes:
        numbers: (P,) of the candidates that are members.
        scores: (P, E).
    """

    def __init__(self, size: int, competition: Competition) -> None:
        self.size, self.competition = size, competition
        self.numbers: list[int] = []
        self.scores: Scores = np.empty((0, 0))

    def add(self, number: int, scores_E: Scores) -> None:
        """Let a candidate in; if they are P + 1 then, the worst leaves, of equals the oldest.

        Raises:
            SearchError: it was scored on another number of examples than the others.
        """
        if self.numbers and len(scores_E) != self.scores.shape[1]:
            raise SearchError(
                f"candidate {number} was scored on {len(scores_E)} examples, those before it on "
                f"{self.scores.shape[1]}: example scores must be of the same examples"
            )
        rows = [*self.scores, scores_E]
        self.scores = np.stack(rows)
        self.numbers.append(number)
        if len(self.numbers) > self.size:
            worst = int(np.argmin(self.competition.fitness(self.scores)))
            self.scores = np.delete(self.scores, worst, axis=0)
            del self.numbers[worst]


def roulette(weights_P: Scores, rng: np.random.Generator) -> int:
    """An index, each as likely as its weight; all equally likely where no weight is positive."""
    total = np.cumsum(weights_P)
    if not total[-1] > 0:
        return int(rng.integers(len(total)))
    drawn = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
    # a product may round up to the total itself
    return min(drawn, int(np.flatnonzero(weights_P)[-1]))
