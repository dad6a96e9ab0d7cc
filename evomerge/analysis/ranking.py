"""How well the first rungs of a race ranked the candidates of its cohorts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import NamedTuple

from evomerge.search.racing.cells import lacking
from evomerge.search.racing.reliability import Variances, variances
from evomerge.store.portions import union
from evomerge.store.records import Event, PortionRecord
from evomerge.types import Candidate, Cells, Evaluation, Portion, count


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """How well the first rungs ranked, computed again from all scores on record.

    Reliability is the share of what scores on so many examples vary by, from candidate to
    candidate, that the candidates themselves make: 0 ranks by chance, 1 without any. It is that of
    the last third of the cohorts, or of all where they are fewer than three.

    Attributes:
        cohorts: how many have ended, that of the starts left out.
        first: how many examples those of the last one were asked at first.
        reliability: of a ranking by so many.
        in_first_third: the reliability of as many in the first third of the cohorts; None where
            they are fewer than three.
        for_half: how many examples would rank with 0.5; None where candidates do not differ.
        raised: number of a cohort, from 1, to how many examples its candidates were asked at first,
            where that was more than in the one before.
    """

    cohorts: int
    first: int
    reliability: float
    in_first_third: float | None
    for_half: int | None
    raised: Mapping[int, int]


class _Cohort(NamedTuple):
    number: int
    first: int
    variances: Variances


def rankings(
    candidates: Sequence[Candidate],
    events: Sequence[Event],
    portions: Mapping[str, Sequence[PortionRecord]],
    evaluations: Mapping[int, Evaluation],
) -> dict[str, Ranking]:
    """The `Ranking` of each stage of which a cohort has ended.

    Cohorts in which every recipe came again are counted, and tell nothing.

    Args:
        candidates: by number.
        portions: by digest, what recipes were asked, the oldest first.
        evaluations: by number, of candidates that were known before, on all examples.
    """
    found: dict[str, list[_Cohort]] = {}
    ended: Counter[str] = Counter()
    asked = _Asked(candidates, portions, evaluations)
    # those of a cohort are reported together
    told = [event for event in events if event.kind == "tell"]
    for _, group in groupby(told, key=lambda event: event.elapsed_seconds):
        numbers = sorted(event.number for event in group)
        one = candidates[numbers[0]]
        if len(numbers) < 2 or one.kind != "search" or one.label:
            continue
        ended[one.stage] += 1
        rung = asked.first_rung(numbers)
        ranked = variances(asked.rows(numbers, rung))
        if ranked is not None:
            cohort = _Cohort(ended[one.stage], count(rung), ranked)
            found.setdefault(one.stage, []).append(cohort)
    return {stage: _ranking(cohorts, ended[stage]) for stage, cohorts in found.items()}


class _Asked:
    """What the candidates of cohorts were asked; see `rankings`."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        portions: Mapping[str, Sequence[PortionRecord]],
        evaluations: Mapping[int, Evaluation],
    ) -> None:
        self._digests = [one.recipe.digest for one in candidates]
        self._portions, self._evaluations = portions, evaluations
        self._since = {digest: n for n, digest in reversed([*enumerate(self._digests)])}

    def first_rung(self, numbers: Sequence[int]) -> Portion:
        """What a cohort was asked on its first rung: all that a new recipe is asked at first."""
        for number in numbers:
            digest = self._digests[number]
            if self._since[digest] == number and digest in self._portions:
                first = self._portions[digest][0].cells
                return {task: tuple(sorted(scores)) for task, scores in first.items()}
        return {}

    def rows(self, numbers: Sequence[int], rung: Portion) -> list[list[float]]:
        """The scores on a rung of each different recipe that has them all."""
        of_recipe = {self._digests[number]: self._cells(number) for number in numbers}
        return [
            [cells[task][example] for task, ids in rung.items() for example in ids]
            for cells in of_recipe.values()
            if not lacking(rung, cells)
        ]

    def _cells(self, number: int) -> Cells:
        portions = self._portions.get(self._digests[number])
        if portions is not None:
            return union(one.cells for one in portions)
        return self._evaluations[number].cells if number in self._evaluations else {}


def _ranking(cohorts: Sequence[_Cohort], ended: int) -> Ranking:
    third = len(cohorts) // 3
    late = _pooled(cohorts[-third:])  # all, where a third is none
    first, signal = cohorts[-1].first, late.signal
    return Ranking(
        cohorts=ended,
        first=first,
        reliability=late.reliability(first),
        in_first_third=_pooled(cohorts[:third]).reliability(first) if third else None,
        for_half=max(1, math.ceil(late.noise / signal)) if signal > 0 else None,
        raised={
            later.number: later.first
            for earlier, later in pairwise(cohorts)
            if later.first > earlier.first
        },
    )


def _pooled(cohorts: Sequence[_Cohort]) -> Variances:
    each = [cohort.variances for cohort in cohorts]
    return Variances(*(math.fsum(values) / len(each) for values in zip(*each, strict=True)))
