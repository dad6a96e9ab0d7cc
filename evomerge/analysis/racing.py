"""What racing saved in a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evomerge.search.racing.cells import task_scores
from evomerge.store.portions import union
from evomerge.types import FINAL_ESTIMATE, Candidate, Cells, Evaluation, TaskScores


@dataclass(frozen=True, slots=True, kw_only=True)
class RacingSummary:
    """How many examples the candidates of a search were asked.

    Attributes:
        examples: of all of them together; final estimates and baselines are left out.
        in_full: how many asking each of them everything would have taken.
        candidates: how many examples to how many candidates that were asked so many.
    """

    examples: int
    in_full: int
    candidates: Mapping[int, int]

    @property
    def factor(self) -> float:
        """How many times fewer were asked."""
        return self.in_full / self.examples


def parts(portions: Sequence[tuple[str, Cells]]) -> dict[str, dict[str, TaskScores]]:
    """Digest to the scores of a recipe that was asked some of the examples, by task."""
    found: dict[str, list[Cells]] = {}
    for digest, cells in portions:
        found.setdefault(digest, []).append(cells)
    scores = {}
    for digest, answers in found.items():
        known = union(answers)
        asked = {task: tuple(sorted(cells)) for task, cells in known.items()}
        scores[digest] = task_scores(asked, known)
    return scores


def summary(
    candidates: Sequence[Candidate],
    asked: Mapping[str, Mapping[str, TaskScores]],
    evaluations: Mapping[int, Evaluation],
) -> RacingSummary | None:
    """What racing saved; None in a run that does not race.

    Args:
        asked: from `parts`.
        evaluations: by number, those of baselines among them with their scores.
    """
    baseline = next((one for one in evaluations.values() if one.tasks), None)
    estimated = {c.recipe.digest for c in candidates if c.kind == FINAL_ESTIMATE}
    raced = {c.recipe.digest for c in candidates if c.kind == "search"} - estimated
    counts = [_examples(asked[digest]) for digest in raced if digest in asked]
    if baseline is None or not counts:
        return None
    whole = _examples(baseline.tasks)
    by_count = dict(sorted(Counter(counts).items()))
    return RacingSummary(examples=sum(counts), in_full=whole * len(counts), candidates=by_count)


def _examples(tasks: Mapping[str, TaskScores]) -> int:
    return sum(len(scores.doc_ids) for scores in tasks.values())
