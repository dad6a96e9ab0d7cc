"""How well a few examples rank the candidates of a cohort."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_OLD = 0.7  # weight of what earlier cohorts said
_LOW, _COHORTS = 0.05, 5


@dataclass(slots=True)
class Reliability:
    """Variance between candidates, and of candidate and example together, over the cohorts.

    Attributes:
        signal: variance of the candidates' true means; NaN before the first cohort.
        noise: variance of one answer about what candidate and example would make it by themselves.

    Source: two-way analysis of variance without replication; Brennan 2001, "Generalizability
        Theory", section 2.
    """

    signal: float = math.nan
    noise: float = math.nan
    low: int = 0  # cohorts in a row

    def learn(self, rows: Sequence[Sequence[float]]) -> None:
        """Take in the scores of a cohort on its first rung.

        Args:
            rows: (P, n); fewer than two of either teach nothing.
        """
        R_Pn = np.array(rows, dtype=float)
        if R_Pn.ndim != 2 or min(R_Pn.shape) < 2:
            return
        P, n = R_Pn.shape
        of_candidate = R_Pn.mean(axis=1)
        rest = R_Pn - of_candidate[:, None] - R_Pn.mean(axis=0) + R_Pn.mean()
        noise = float((rest**2).sum()) / ((P - 1) * (n - 1))
        signal = max(0.0, float(of_candidate.var(ddof=1)) - noise / n)
        known = not math.isnan(self.signal)
        self.signal = _OLD * self.signal + (1 - _OLD) * signal if known else signal
        self.noise = _OLD * self.noise + (1 - _OLD) * noise if known else noise
        self.low = self.low + 1 if self.of(n) < _LOW else 0

    def of(self, examples: int) -> float:
        """The share of the variance of means over so many examples that is the candidates'."""
        total = self.signal + self.noise / examples
        return self.signal / total if total > 0 else 0.0

    @property
    def is_low(self) -> bool:
        """Whether the first rung has ranked by next to nothing but noise for five cohorts."""
        return self.low >= _COHORTS

    def start_again(self) -> None:
        """Count anew how often it was low."""
        self.low = 0
