"""What is on record of recipes on the search examples, and what is still to be asked."""

from __future__ import annotations

from collections.abc import Callable

from evomerge.search.racing.cells import lacking, task_scores
from evomerge.search.stage import StageRun
from evomerge.store import Store
from evomerge.types import Candidate, Cells, Evaluation, Portion


class Known:
    """The scores of recipes, example by example: none is asked twice.

    Args:
        with_value: gives the evaluation of a candidate on all examples its fitness.
        in_part: whether any stage of the search asks some of the examples.

    Attributes:
        examples: all that the search may ask; empty until a baseline was asked them.
    """

    def __init__(
        self,
        store: Store,
        with_value: Callable[[Candidate, Evaluation], Evaluation],
        *,
        in_part: bool,
    ) -> None:
        self._store, self._with_value, self._in_part = store, with_value, in_part
        self.examples: Portion = {}

    def wanted(self, stage: StageRun, candidate: Candidate) -> Evaluation | Portion | None:
        """Which examples a candidate is to be asked, None for all; or its result, if known.

        Of a raced candidate that was asked all of its rung, the result is one without scores.
        """
        digest = candidate.recipe.digest
        known = self._store.evaluation(digest)
        if known is not None or candidate.kind == "baseline":
            return known
        if stage.races(candidate):
            asked = stage.lacking(candidate)
            whole = asked == self.examples and stage.stage.racing is None
            return None if whole else asked or Evaluation("done")
        cells = self._store.cells(digest) if self._in_part else {}
        asked = lacking(self.examples, cells)
        if not asked:  # an interrupt came before it was recorded
            return self._whole(candidate, cells)
        return asked if cells else None

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
            if not lacking(self.examples, cells):
                self._store.record_evaluation(digest, "search", self._whole(candidate, cells))

    def _whole(self, candidate: Candidate, cells: Cells) -> Evaluation:
        """The evaluation on all examples, from their scores."""
        return self._with_value(candidate, Evaluation("done", task_scores(self.examples, cells)))
