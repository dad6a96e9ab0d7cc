"""What is on record of recipes on the search examples, and what is still to be asked."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from evomerge.search.racing.cells import lacking, task_scores
from evomerge.search.racing.cohort import Standing
from evomerge.search.results import Results
from evomerge.store import Store
from evomerge.types import Candidate, Cells, Evaluation, Portion


class OnRecord(NamedTuple):
    """A recipe's evaluation on all search examples, if it has one, and its scores on any."""

    whole: Evaluation | None
    cells: Cells


class Known:
    """The scores of recipes, example by example: none is asked twice.

    Args:
        results: give an evaluation on all examples its fitness, and say which these are.
        in_part: whether any stage of the search asks some of the examples.
    """

    def __init__(self, store: Store, results: Results, *, in_part: bool) -> None:
        self._store, self._results, self._in_part = store, results, in_part

    def of(self, digest: str) -> OnRecord:
        """What is on record of a recipe."""
        whole = self._store.evaluation(digest)
        if whole is not None and whole.status == "done":
            return OnRecord(whole, whole.cells)
        return OnRecord(whole, self._store.cells(digest) if self._in_part else {})

    def reported(self, digest: str, standing: Standing, seconds: float) -> Evaluation:
        """What is reported of a recipe whose cohort has ended.

        Its evaluation if it failed, or had been asked all examples by then, in whichever cohorts
        and as whatever kinds of candidates; else only where it stands.

        Args:
            seconds: of search time at which it is reported. What was recorded later does not count:
                a replay is to learn the same.
        """
        cells = self._store.cells(digest, seconds)
        # without any it was known before its cohort began: a baseline, say
        in_part = bool(cells and lacking(self._results.examples, cells))
        whole = None if in_part and standing.rung >= 0 else self._store.evaluation(digest)
        return replace(whole or Evaluation("done"), standing=standing)

    def wanted(self, candidate: Candidate) -> Evaluation | Portion | None:
        """Which examples a candidate is to be asked, None for all; or its result, if known."""
        whole, cells = self.of(candidate.recipe.digest)
        if whole is not None or not cells:
            return whole
        # none is missing where an interrupt came before the whole was recorded
        return lacking(self._results.examples, cells) or self._whole(candidate, cells)

    def keep(self, candidate: Candidate, evaluation: Evaluation, elapsed: float) -> None:
        """Record the scores of a candidate on some examples; of all, once they are known.

        Args:
            elapsed: seconds of search time so far.
        """
        digest = candidate.recipe.digest
        with self._store.together():
            if evaluation.status == "failed":
                self._store.record_evaluation(digest, "search", evaluation)
                return
            self._store.record_portion(digest, evaluation, elapsed_seconds=elapsed)
            cells = self._store.cells(digest)
            if not lacking(self._results.examples, cells):
                self._store.record_evaluation(digest, "search", self._whole(candidate, cells))

    def _whole(self, candidate: Candidate, cells: Cells) -> Evaluation:
        """The evaluation on all examples, from their scores."""
        scores = task_scores(self._results.examples, cells)
        return self._results.with_value(candidate, Evaluation("done", scores))
