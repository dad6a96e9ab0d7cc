"""What is on record of recipes on the search examples, and what is still to be asked."""

from __future__ import annotations

from evomerge.search.racing.cells import lacking, task_scores
from evomerge.search.stage import StageRun
from evomerge.store import Store
from evomerge.types import FINAL_ESTIMATE, Candidate, Evaluation, Portion


class Known:
    """The scores of recipes, example by example: none is asked twice.

    Attributes:
        examples: all that the search may ask; empty until a baseline was asked them.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.examples: Portion = {}

    def wanted(self, stage: StageRun, candidate: Candidate) -> Evaluation | Portion | None:
        """Which examples a candidate is to be asked, None for all; or its result, if known.

        Of a raced candidate that was asked all of its rung, the result is one without scores.
        """
        known = self._store.evaluation(candidate.recipe.digest)
        if known is not None:
            return known
        if stage.races(candidate):
            wanted = stage.lacking(candidate)
            return None if wanted == self.examples else wanted or Evaluation("done")
        if stage.race is None or candidate.kind != FINAL_ESTIMATE:
            return None
        return lacking(self.examples, self._store.cells(candidate.recipe.digest)) or None

    def keep(self, digest: str, evaluation: Evaluation, elapsed: float) -> Evaluation | None:
        """Record the scores of a recipe on some examples.

        Args:
            elapsed: seconds of search time so far.

        Returns:
            What is to be recorded besides: that it failed, or, once the scores of all examples are
            known, the whole evaluation. None while they are not.
        """
        if evaluation.status == "failed":
            return evaluation
        self._store.record_portion(digest, evaluation, elapsed_seconds=elapsed)
        cells = self._store.cells(digest)
        if lacking(self.examples, cells):
            return None
        return Evaluation("done", task_scores(self.examples, cells))
