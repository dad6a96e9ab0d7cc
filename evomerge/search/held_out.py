"""Scores on examples that the search never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from evomerge.executors import Executor
from evomerge.store import Store
from evomerge.types import Candidate, Evaluation, Job

WithValue = Callable[[Candidate, Evaluation, Mapping[int, Evaluation]], Evaluation]


class HeldOut:
    """Held-out evaluations of a run.

    Args:
        with_value: gives an evaluation its fitness, from those of other candidates by number.

    Attributes:
        scores: by number, those known so far.
    """

    def __init__(self, store: Store, executor: Executor, with_value: WithValue) -> None:
        self._store, self._executor, self._with_value = store, executor, with_value
        self.scores: dict[int, Evaluation] = {}

    def score(self, chosen: Sequence[Candidate]) -> Iterator[None]:
        """Score these, all workers at once; yields after each that was asked.

        Values may be relative to the best source: baselines come first. Where they show that
        nothing is held out, the others are not asked.
        """
        yield from self._ask([c for c in chosen if c.kind == "baseline"])
        if self.scores:
            yield from self._ask([c for c in chosen if c.kind != "baseline"])

    def _ask(self, chosen: Sequence[Candidate]) -> Iterator[None]:
        missing: dict[int, Candidate] = {}
        for candidate in chosen:
            known = self._store.evaluation(candidate.recipe.digest, "held_out")
            if known is None:
                missing[candidate.number] = candidate
                self._executor.submit(Job(candidate.number, candidate.recipe, "held_out"))
            else:
                self.scores[candidate.number] = known
        for _ in range(len(missing)):
            job, evaluation = self._executor.result()
            if evaluation.status == "done" and not evaluation.tasks:
                continue  # this fitness holds nothing out
            evaluation = self._with_value(missing[job.number], evaluation, self.scores)
            self._store.record_evaluation(job.recipe.digest, "held_out", evaluation)
            self.scores[job.number] = evaluation
            yield
