"""How much too high the best of several scores is because it is the best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from evomerge.scoring.value import is_mean
from evomerge.types import TaskScores


@dataclass(slots=True)
class Layout:
    """What the scores of candidates on the same examples scatter by; no candidate's are kept.

    Attributes:
        candidates: how many were added.
        others: that were not, for they lost to one of these on fewer examples: C is all of them.
    """

    candidates: int = 0
    others: int = 0
    _tasks: dict[str, _Task] = field(default_factory=dict)
    _known: bool = True

    def add(self, tasks: Mapping[str, TaskScores]) -> None:
        """Take in the scores of a candidate; where they are no means, nothing is known of them."""
        if not self._tasks:
            self._tasks = {t: _Task(one, [0.0] * len(one.doc_ids)) for t, one in tasks.items()}
        first = {task: one.first.doc_ids for task, one in self._tasks.items()}
        alike = {task: one.doc_ids for task, one in tasks.items()} == first
        self.candidates += 1
        self._known = self._known and alike and all(map(is_mean, tasks.values()))
        if self._known:
            for name, scores in tasks.items():
                self._tasks[name].add(scores)

    def optimism(self, worths: Mapping[str, float]) -> float | None:
        """How far the best of C scores lies above what it would have on other examples.

        The expected largest of C standard normal numbers, times the standard error of a
        candidate's score about those of the others: the root of the sum over tasks of
        worth^2 * MSE / n, with the mean square MSE of the two-way layout of candidates and the
        task's n examples. So much it is, on average, where C candidates are equally good and err
        independently, and the best of all is found. Of some that are better than others, or that
        resemble one another as the late ones of a search do, the best owes less to luck.

        Args:
            worths: by task, what a point of its score is worth in the fitness.

        Returns:
            None where the examples do not tell.

        Source: Tippett 1925, Biometrika 17:364 (the largest of C).
        """
        C = self.candidates + self.others
        if C < 2:
            return 0.0
        if (
            self.candidates < 2
            or not self._known
            or any(len(task.of_example) < 2 for task in self._tasks.values())
        ):
            return None
        variance = math.fsum(
            worths[name] ** 2 * task.noise(self.candidates) / len(task.of_example)
            for name, task in self._tasks.items()
        )
        return expected_largest(C) * math.sqrt(variance)


@dataclass(slots=True)
class _Task:
    """Sums over the candidates' scores on one task's examples, less those of the first one."""

    first: TaskScores
    of_example: list[float]
    squares: float = 0.0
    squared_totals: float = 0.0

    def add(self, scores: TaskScores) -> None:
        pairs = zip(scores.example_scores, self.first.example_scores, strict=True)
        rest = [x - y for x, y in pairs]
        self.of_example = [x + y for x, y in zip(self.of_example, rest, strict=True)]
        self.squares += math.fsum(x * x for x in rest)
        self.squared_totals += math.fsum(rest) ** 2

    def noise(self, C: int) -> float:
        """Mean square of what neither candidate nor example makes by itself."""
        n = len(self.of_example)
        by_candidate = self.squared_totals / n
        by_example = math.fsum(x * x for x in self.of_example) / C
        by_neither = math.fsum(self.of_example) ** 2 / (C * n)
        rest = self.squares - by_candidate - by_example + by_neither
        return max(0.0, rest) / ((C - 1) * (n - 1))


def expected_largest(count: int) -> float:
    """The expected largest of so many independent standard normal numbers.

    The integral of x over the density of the largest, by parts and by the trapezoidal rule.
    """
    step, steps = 0.01, 1000

    def below(x: float) -> float:
        return (math.erfc(-x / math.sqrt(2)) / 2) ** count  # all of them

    places = [k * step for k in range(1, steps)]
    return step * (0.5 - below(0.0) + math.fsum(1 - below(x) - below(-x) for x in places))
