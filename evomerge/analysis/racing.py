"""What racing saved in a run, and how well its first rungs ranked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from evomerge.analysis.ranking import Ranking, rankings
from evomerge.search.racing.cells import task_scores
from evomerge.store import Store
from evomerge.store.portions import union
from evomerge.store.records import Event
from evomerge.types import FINAL_ESTIMATE, Candidate, Cells, Evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class RacingSummary:
    """How many examples the candidates of a search were asked.

    Attributes:
        examples: of all of them together; final estimates and baselines are left out.
        in_full: how many asking each of them everything would have taken.
        tokens: generated in their answers.
        tokens_in_full: in as many answers as `in_full`, if these were as long on average.
        all_examples: how many a candidate can be asked.
        candidates: how many examples to how many candidates that were asked so many.
        ranking: by stage, one without a name where the search has none; see `Ranking`.
    """

    examples: int
    in_full: int
    tokens: int
    tokens_in_full: int
    all_examples: int
    candidates: Mapping[int, int]
    ranking: Mapping[str, Ranking]

    @property
    def factor(self) -> float:
        """How many times fewer were asked."""
        return self.in_full / self.examples


def parts(portions: Iterable[tuple[str, Cells]]) -> dict[str, Evaluation]:
    """Digest to the evaluation of a recipe on those examples that it was asked."""
    found: dict[str, list[Cells]] = {}
    for digest, cells in portions:
        found.setdefault(digest, []).append(cells)
    evaluations = {}
    for digest, answers in found.items():
        known = union(answers)
        asked = {task: tuple(sorted(cells)) for task, cells in known.items()}
        evaluations[digest] = Evaluation("done", task_scores(asked, known))
    return evaluations


def summary(
    store: Store,
    candidates: Sequence[Candidate],
    events: Sequence[Event],
    asked: Mapping[str, Evaluation],
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
    counts = [asked[digest].examples for digest in raced if digest in asked]
    if baseline is None or not counts:
        return None
    examples, in_full = sum(counts), baseline.examples * len(counts)
    generated = store.tokens_of_recipes()
    tokens = sum(generated.get(digest, 0) for digest in raced)
    return RacingSummary(
        examples=examples,
        in_full=in_full,
        tokens=tokens,
        tokens_in_full=round(tokens * in_full / examples),
        all_examples=baseline.examples,
        candidates=dict(sorted(Counter(counts).items())),
        ranking=rankings(candidates, events, asked, evaluations),
    )
