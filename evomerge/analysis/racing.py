"""What racing saved in a run, and how well its first rungs ranked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from evomerge.analysis.ranking import Ranking, rankings
from evomerge.search.racing.cells import task_scores
from evomerge.store.portions import union
from evomerge.store.records import Event, PortionRecord
from evomerge.types import FINAL_ESTIMATE, Candidate, Evaluation, count


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


def by_recipe(portions: Iterable[PortionRecord]) -> dict[str, list[PortionRecord]]:
    """Digest to the portions that the recipe was asked, in their order."""
    found: dict[str, list[PortionRecord]] = {}
    for one in portions:
        found.setdefault(one.recipe_digest, []).append(one)
    return found


def part(portions: Iterable[PortionRecord]) -> Evaluation:
    """The evaluation of a recipe on those examples that it was asked."""
    known = union(one.cells for one in portions)
    asked = {task: tuple(sorted(cells)) for task, cells in known.items()}
    return Evaluation("done", task_scores(asked, known))


def summary(
    candidates: Sequence[Candidate],
    events: Sequence[Event],
    portions: Mapping[str, Sequence[PortionRecord]],
    evaluations: Mapping[int, Evaluation],
) -> RacingSummary | None:
    """What racing saved; None in a run that does not race.

    Args:
        portions: from `by_recipe`.
        evaluations: by number, those of baselines among them with their scores.
    """
    baseline = next((one for one in evaluations.values() if one.tasks), None)
    raced = _raced(candidates, events, portions)
    counts = [sum(count(one.cells) for one in asked) for asked in raced]
    if baseline is None or not counts:
        return None
    examples, in_full = sum(counts), baseline.examples * len(counts)
    tokens = sum(one.generated_tokens for asked in raced for one in asked)
    return RacingSummary(
        examples=examples,
        in_full=in_full,
        tokens=tokens,
        tokens_in_full=round(tokens * in_full / examples),
        all_examples=baseline.examples,
        candidates=dict(sorted(Counter(counts).items())),
        ranking=rankings(candidates, events, portions, evaluations),
    )


def _raced(
    candidates: Sequence[Candidate],
    events: Sequence[Event],
    portions: Mapping[str, Sequence[PortionRecord]],
) -> list[list[PortionRecord]]:
    """What each recipe of the search was asked before a final estimate of it was to be made."""
    estimated: dict[str, float] = {}
    for event in events:
        one = candidates[event.number]
        if event.kind == "ask" and one.kind == FINAL_ESTIMATE:
            estimated.setdefault(one.recipe.digest, event.elapsed_seconds)
    searched = dict.fromkeys(c.recipe.digest for c in candidates if c.kind == "search")
    asked = (
        [
            one
            for one in portions.get(digest, ())
            if one.elapsed_seconds <= estimated.get(digest, math.inf)
        ]
        for digest in searched
    )
    return [one for one in asked if one]
