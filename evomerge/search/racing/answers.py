"""How good candidates are that were asked different examples."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping

import numpy as np

from evomerge.search.racing.reliability import Reliability
from evomerge.types import Cells, Portion


class Answers:
    """What the recipes of a race were scored on each example that they were asked.

    A score says little by itself: some examples are harder than others. What compares is by how
    much a recipe did better on each than all that were asked it.

    Args:
        examples: all that the search may ask.
        shares: of the tasks in a candidate's score.
    """

    def __init__(self, examples: Portion, shares: Mapping[str, float]) -> None:
        total = math.fsum(shares.values())
        every = [(task, example) for task, ids in examples.items() for example in ids]
        self._columns = {cell: column for column, cell in enumerate(every)}
        self._task_E = np.array([list(examples).index(task) for task, _ in every], dtype=np.int64)
        self._shares = [shares[task] / total for task in examples]
        self._rows: dict[str, int] = {}  # by digest
        self._cohorts: list[int] = []  # by row, the first that the recipe was in
        self._row, self._column, self._score = array("q"), array("q"), array("d")  # of each cell

    def add(self, answers: Mapping[str, Cells]) -> None:
        """Take in the scores of a cohort's recipes, by digest."""
        cohort = self._cohorts[-1] + 1 if self._cohorts else 0
        for digest, cells in answers.items():
            row = self._rows.setdefault(digest, len(self._rows))
            if row == len(self._cohorts):
                self._cohorts.append(cohort)
            for task, scores in cells.items():
                self._row.extend([row] * len(scores))
                self._column.extend(self._columns[task, example] for example in scores)
                self._score.extend(scores.values())

    def adjusted(self, reliability: Reliability) -> dict[str, float]:
        """The score of each recipe by its digest, adjusted for how difficult its examples were.

        Task by task, a_j is the mean of y_ij - d_i over the examples of recipe j, plus the mean of
        d_i over all examples; d_i is the mean of example i over all recipes that were asked it. By
        as much as so few examples do not rank, it is drawn to the mean of its cohort: the best of
        many would else be the luckiest. Sums are added in one order, whoever answered first.
        """
        if not self._rows:
            return {}
        J, E = len(self._rows), len(self._task_E)
        rows, columns, scores = map(np.array, (self._row, self._column, self._score))
        _, once = np.unique(rows * E + columns, return_index=True)  # a recipe may come again
        rows, columns, scores = rows[once], columns[once], scores[once]
        with np.errstate(all="ignore"):
            a_J = self._means(rows, columns, scores, J)
            counts = np.bincount(rows, minlength=J)
            trust_J = np.array([reliability.of(int(n)) if n else 0.0 for n in counts])
            cohort_J = np.array(self._cohorts)
            sums, sizes = np.bincount(cohort_J, weights=a_J), np.bincount(cohort_J)
            of_cohort = (sums / np.maximum(sizes, 1))[cohort_J]
            shrunk_J = of_cohort + trust_J * (a_J - of_cohort)
        return {
            digest: float(shrunk_J[row])
            for digest, row in self._rows.items()
            if math.isfinite(shrunk_J[row])
        }

    def _means(
        self, rows: np.ndarray, columns: np.ndarray, scores: np.ndarray, J: int
    ) -> np.ndarray:
        """(J,) a_j, the tasks weighted by their shares."""
        E = len(self._task_E)
        asked_E = np.bincount(columns, minlength=E)
        d_E = np.bincount(columns, weights=scores, minlength=E) / np.maximum(asked_E, 1)
        better, task = scores - d_E[columns], self._task_E[columns]
        a_J = np.zeros(J)
        for index, share in enumerate(self._shares):
            own, known = task == index, (self._task_E == index) & (asked_E > 0)
            lead_J = np.bincount(rows[own], weights=better[own], minlength=J)
            counts_J = np.maximum(np.bincount(rows[own], minlength=J), 1)
            level = math.fsum(d_E[known].tolist()) / max(1, int(known.sum()))
            a_J += share * (lead_J / counts_J + level)
        return a_J
