"""How well the first rungs of a race ranked the candidates of its cohorts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from evomerge.search.racing.reliability import Variances, variances
from evomerge.store.records import Event
from evomerge.types import Candidate, Cells, Evaluation, count


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
    first: int
    variances: Variances


def rankings(
    candidates: Sequence[Candidate],
    events: Sequence[Event],
    asked: Mapping[str, Evaluation],
    evaluations: Mapping[int, Evaluation],
) -> dict[str, Ranking]:
    """The `Ranking` of each stage of which a cohort has ended.

    Args:
        candidates: by number.
        asked: by digest, what recipes scored on the examples that they were asked.
        evaluations: by number, of candidates that were known before, on all examples.
    """
    found: dict[str, list[_Cohort]] = {}
    # those of a cohort are reported together
    told = [event for event in events if event.kind == "tell"]
    for _, group in groupby(told, key=lambda event: event.elapsed_seconds):
        numbers = [event.number for event in group]
        first = candidates[numbers[0]]
        if len(numbers) < 2 or first.kind != "search" or first.label:
            continue
        known = [
            asked.get(candidates[n].recipe.digest) or evaluations.get(n) or Evaluation("failed")
            for n in numbers
        ]
        cohort = _cohort([one.cells for one in known if one.tasks])
        if cohort is not None:
            found.setdefault(first.stage, []).append(cohort)
    return {stage: _ranking(cohorts) for stage, cohorts in found.items()}


def _cohort(answers: Sequence[Cells]) -> _Cohort | None:
    """What the scores vary by on the examples that all were asked: those of the first rung."""
    if not answers:
        return None
    common = {
        task: tuple(sorted(set.intersection(*(set(cells.get(task, ())) for cells in answers))))
        for task in answers[0]
    }
    rows = [
        [cells[t][example] for t, ids in common.items() for example in ids] for cells in answers
    ]
    found = variances(rows)
    return None if found is None else _Cohort(count(common), found)


def _ranking(cohorts: Sequence[_Cohort]) -> Ranking:
    third = len(cohorts) // 3
    late = _pooled(cohorts[-third:])  # all, where a third is none
    first, signal = cohorts[-1].first, late.signal
    firsts = [0, *(cohort.first for cohort in cohorts)]
    return Ranking(
        cohorts=len(cohorts),
        first=first,
        reliability=late.reliability(first),
        in_first_third=_pooled(cohorts[:third]).reliability(first) if third else None,
        for_half=max(1, math.ceil(late.noise / signal)) if signal > 0 else None,
        raised={
            number: firsts[number]
            for number in range(2, len(firsts))
            if firsts[number] > firsts[number - 1]
        },
    )


def _pooled(cohorts: Sequence[_Cohort]) -> Variances:
    each = [cohort.variances for cohort in cohorts]
    return Variances(*(math.fsum(values) / len(each) for values in zip(*each, strict=True)))
