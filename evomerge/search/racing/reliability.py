"""How well a few examples rank the candidates of a cohort."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

_OLD = 0.7  # weight of what earlier cohorts said
_LOW, _COHORTS = 0.05, 5
_SQUARABLE = 1e100  # the sum of the squares of many such scores is a float


class Variances(NamedTuple):
    """What the scores of candidates on the same examples vary by.

    Attributes:
        signal: variance of the candidates' true means; below 0 by chance where it is small.
        noise: variance of one answer about what candidate and example would make it by themselves.

    Source: two-way analysis of variance without replication; Brennan 2001, "Generalizability
        Theory", section 2.
    """

    signal: float
    noise: float

    def reliability(self, examples: int) -> float:
        """The share of the variance of means over so many examples that is the candidates'."""
        signal = max(0.0, self.signal)
        total = signal + self.noise / examples
        return signal / total if total > 0 else 0.0


def variances(rows: Sequence[Sequence[float]]) -> Variances | None:
    """What scores vary by.

    Args:
        rows: (P, n) the scores of each candidate.

    Returns:
        None where there are fewer than two of either, or scores whose squares are no numbers.
    """
    P, n = len(rows), len(rows[0]) if rows else 0
    if P < 2 or n < 2 or not all(abs(score) < _SQUARABLE for row in rows for score in row):
        return None
    of_candidate = [math.fsum(row) / n for row in rows]
    of_example = [math.fsum(column) / P for column in zip(*rows, strict=True)]
    mean = math.fsum(of_candidate) / P
    rest = (
        (score - candidate - example + mean) ** 2
        for row, candidate in zip(rows, of_candidate, strict=True)
        for score, example in zip(row, of_example, strict=True)
    )
    noise = math.fsum(rest) / ((P - 1) * (n - 1))
    scatter = math.fsum((one - mean) ** 2 for one in of_candidate) / (P - 1)
    return Variances(scatter - noise / n, noise)


@dataclass(slots=True)
class Reliability:
    """`Variances` over the cohorts, those of the last ones counting most.

    Attributes:
        mean: None before the first cohort.
        low: how many cohorts in a row the first rung has hardly ranked.
    """

    mean: Variances | None = None
    low: int = 0

    def learn(self, rows: Sequence[Sequence[float]]) -> None:
        """Take in the scores of a cohort on its first rung.

        Args:
            rows: (P, n); fewer than two of either teach nothing.
        """
        found = variances(rows)
        if found is None:
            return
        now = found._replace(signal=max(0.0, found.signal))
        if self.mean is not None:
            pairs = zip(self.mean, now, strict=True)
            now = Variances(*(_OLD * old + (1 - _OLD) * new for old, new in pairs))
        self.mean = now
        self.low = self.low + 1 if self.of(len(rows[0])) < _LOW else 0

    def of(self, examples: int) -> float:
        """The share of the variance of means over so many examples that is the candidates'."""
        return 0.0 if self.mean is None else self.mean.reliability(examples)

    @property
    def is_low(self) -> bool:
        """Whether the first rung has ranked by next to nothing but noise for five cohorts."""
        return self.low >= _COHORTS

    def start_again(self) -> None:
        """Count anew how often it was low."""
        self.low = 0
