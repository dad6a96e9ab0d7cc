"""How many candidates were asked for, and how they did."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from evomerge.errors import SearchError
from evomerge.types import Candidate, Evaluation, Kind


@dataclass(slots=True)
class Counts:
    """How many candidates were asked for and reported, by kind, and how they did.

    Attributes:
        asked, reported, failed: how many, by kind of candidate.
        first_error: by kind, that of the first candidate that failed.
    """

    asked: Counter[Kind] = field(default_factory=Counter)
    reported: Counter[Kind] = field(default_factory=Counter)
    failed: Counter[Kind] = field(default_factory=Counter)
    _best: tuple[float, ...] = (-math.inf,)
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
            self._best = max(self._best, (-evaluation.shortfall, evaluation.value))

    @property
    def best(self) -> float | None:
        """The fitness of the best searched candidate so far; None before one was scored."""
        return self._best[-1] if len(self._best) > 1 else None

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
