"""The candidates of a search, and how they did as far as it was reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from evomerge.scoring import Fitness
from evomerge.scoring.gains import weighed
from evomerge.search.fitness_values import as_preferred, with_value
from evomerge.search.selection import (
    Preference,
    champions,
    preferences,
    references,
    source_gains,
    winner,
)
from evomerge.search.shown import Shown, shown
from evomerge.types import Candidate, Evaluation, Portion


class Results:
    """What was asked for and what came of it, over all stages.

    Args:
        fitness: what makes a value of scores.
        compared: how many baselines there are: the first candidates.

    Attributes:
        candidates: all that were asked for, by number.
        reported: number to evaluation; of baselines alone with the scores of every example: of
            every candidate, they would fill the memory.
        examples: all that the search may ask; empty until a baseline was asked them.
    """

    def __init__(self, fitness: Fitness, compared: int) -> None:
        self._fitness, self._compared = fitness, compared
        self.candidates: list[Candidate] = []
        self.reported: dict[int, Evaluation] = {}
        self.examples: Portion = {}
        self._winners: list[Candidate] = []  # that later stages build on

    def report(self, candidate: Candidate, evaluation: Evaluation) -> Evaluation:
        """Take in a result; returns it as the optimizer sees it."""
        baseline = candidate.kind == "baseline"
        if not baseline:
            known = self._baselines, self.reported
            sources = source_gains(self._fitness, *known)
            evaluation = weighed(self._fitness, evaluation, references(*known), sources)
        self.reported[candidate.number] = evaluation if baseline else replace(evaluation, tasks={})
        if baseline and not self.examples:
            self.examples = {task: one.doc_ids for task, one in evaluation.tasks.items()}
        alone = [*self._baselines, *self._winners]
        return as_preferred(self._fitness, candidate, evaluation, alone, self.reported)

    def with_value(
        self,
        candidate: Candidate,
        evaluation: Evaluation,
        results: Mapping[int, Evaluation] | None = None,
    ) -> Evaluation:
        """A worker's evaluation with its fitness.

        Args:
            results: on the same split, by number; by default those reported.
        """
        results = self.reported if results is None else results
        return with_value(self._fitness, candidate, evaluation, self._baselines, results)

    def shown(self) -> Shown:
        """What the baselines show, and the winners of the stages so far."""
        known = self.candidates, self.reported, self._winners
        return shown(self._fitness, self.examples, *known)

    def winner(self, stage: str) -> Candidate:
        """The best of a stage, on which a later one builds.

        Raises:
            SearchError: none of its candidates was scored.
        """
        best = winner(stage, self.candidates, self.reported, self._preferences())
        self._winners.append(best)
        return best

    def champions(self, count: int) -> list[Candidate]:
        """Every baseline, and so many recipes of each stage, the best.

        Raises:
            SearchError: nothing was scored.
        """
        return champions(self.candidates, self.reported, count, self._preferences())

    @property
    def _baselines(self) -> list[Candidate]:
        return self.candidates[: self._compared]

    def _preferences(self) -> dict[int, Preference]:
        return preferences(self._fitness, self.candidates, self.reported)
