"""The value of an evaluation, as it is recorded and as the optimizer sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from evomerge.scoring import Fitness, fitness_value
from evomerge.scoring.python import count_mismatch
from evomerge.search.selection import preference, references, scores_alone
from evomerge.types import Candidate, Evaluation


def with_value(
    fitness: Fitness,
    candidate: Candidate,
    evaluation: Evaluation,
    baselines: Sequence[Candidate],
    results: Mapping[int, Evaluation],
) -> Evaluation:
    """A worker's evaluation with its fitness.

    It has failed where other examples were scored than for earlier candidates, which no worker can
    know, and where its fitness is not finite. A baseline of a normalized fitness gets no value: the
    best source is not known before all sources are scored, and what is recorded stays as it is.

    Args:
        baselines: those asked for so far, the sources among them.
        results: of earlier candidates on the same split, by number.
    """
    first = next((one.tasks for one in results.values() if one.tasks), {})
    if text := count_mismatch(fitness, evaluation.tasks, first):
        error = f"CandidateError: {text}"
        evaluation = replace(evaluation, status="failed", tasks={}, error=error)
    unknown = candidate.kind == "baseline" and fitness.normalize != "none"
    if evaluation.status == "failed" or unknown:
        return evaluation
    best = references(baselines, results)
    value = fitness_value(fitness, evaluation.tasks, best)
    if not math.isfinite(value):
        error = f"CandidateError: the fitness is {value}: its scores are too large to be added up"
        return replace(evaluation, status="failed", tasks={}, error=error)
    return replace(evaluation, value=value)


def as_preferred(
    fitness: Fitness,
    candidate: Candidate,
    evaluation: Evaluation,
    known: Sequence[Candidate],
    results: Mapping[int, Evaluation],
) -> Evaluation:
    """The evaluation as the optimizer sees it, with the preference as its value.

    Args:
        known: baselines, and winners of earlier stages.
        results: their evaluations, by number.
    """
    if fitness.shorten is None or evaluation.value is None or candidate.kind == "baseline":
        return evaluation
    alone = scores_alone(fitness, known, results)
    return replace(evaluation, value=preference(fitness, candidate, evaluation.value, alone))
