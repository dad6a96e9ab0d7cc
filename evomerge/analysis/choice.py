"""Among how many the winner was chosen, and whether it is better than what was there before."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from evomerge.analysis.optimism import Layout
from evomerge.scoring import Fitness, fitness_value, shares
from evomerge.scoring.value import is_mean
from evomerge.types import Candidate, Split, TaskScores

Scores = Mapping[str, TaskScores]  # by task


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far the winner is above a baseline, example by example.

    Attributes:
        over: whether it is the best of the sources, or of all baselines.
        baseline: its number.
        label: its name, e.g. ``source: strings``.
        value: fitness of the winner less that of the baseline.
        half_width: half the width of its 95 % interval; None where the examples give none.
        better: whether that interval lies above zero.
    """

    over: Literal["source", "baseline"]
    baseline: int
    label: str
    value: float
    half_width: float | None
    better: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What the choice of the winner is worth.

    Attributes:
        among: how many different recipes of the search were asked all search examples; those that
            are baselines as well are left out, unless one is the winner.
        optimism: how much too high the winner's search score may be because it is the best of
            them, and of the starts that lost to one of them; see `Layout.optimism`.
        split: whose examples `differences` are of: ``held_out``, which chose nothing, if scored.
        differences: from the best source and from the best baseline of that split; of one where
            they are the same, of none where none was scored.
    """

    among: int
    optimism: float | None
    split: Split
    differences: tuple[Difference, ...]


class Compared(NamedTuple):
    """How the winner and the baselines did on the examples of a split.

    Attributes:
        winner: empty where it was not scored on them.
        baselines: by number, those that were scored.
        best_source: from `evomerge.search.selection.references`.
    """

    winner: Scores
    baselines: Mapping[int, Scores]
    best_source: Mapping[str, float]


def choice(
    fitness: Fitness,
    candidates: Sequence[Candidate],
    layout: Layout,
    search: Compared,
    held_out: Compared,
) -> Choice:
    """See `Choice`.

    Args:
        candidates: all of them, by number.
        layout: of the recipes that it was chosen among.
    """
    unseen = bool(held_out.winner and held_out.baselines)
    return Choice(
        among=layout.candidates,
        optimism=layout.optimism(_worths(fitness, search)),
        split="held_out" if unseen else "search",
        differences=tuple(_differences(fitness, candidates, held_out if unseen else search)),
    )


def _differences(
    fitness: Fitness, candidates: Sequence[Candidate], split: Compared
) -> Iterator[Difference]:
    worths = _worths(fitness, split)
    values = {
        n: fitness_value(fitness, one, split.best_source) for n, one in split.baselines.items()
    }
    best_first = sorted(values, key=lambda number: (-values[number], number))
    sources = [number for number in best_first if candidates[number].role == "source"]
    over: Literal["source", "baseline"]
    for over, best in (("source", sources[:1]), ("baseline", best_first[:1])):
        for number in best:
            value, half_width = paired(worths, split.winner, split.baselines[number])
            yield Difference(
                over=over,
                baseline=number,
                label=candidates[number].label,
                value=value,
                half_width=half_width,
                better=None if half_width is None else value > half_width,
            )


def _worths(fitness: Fitness, split: Compared) -> dict[str, float]:
    """By task, what a point of its score is worth in the fitness."""
    total = sum(fitness.tasks[name].weight for name in split.winner)
    of_tasks = shares(fitness, split.best_source)
    return {name: of_tasks[name] / total for name in split.winner}


def paired(worths: Mapping[str, float], one: Scores, other: Scores) -> tuple[float, float | None]:
    """The difference of two models' fitness, and half the width of its 95 % interval.

    The mean over each task's examples, and 1.96 standard errors of what these scatter by.

    Args:
        worths: by task, what a point of its score is worth in the fitness.

    Returns:
        None for the width where a task has one example, or a score that is no mean of examples.
    """
    value, variance, known = 0.0, 0.0, True
    for name, mine in one.items():
        theirs, worth = other[name], worths[name]
        value += worth * (mine.score - theirs.score)
        alike = mine.doc_ids == theirs.doc_ids and len(mine.doc_ids) > 1
        known = known and alike and is_mean(mine) and is_mean(theirs)
        if known:
            pairs = zip(mine.example_scores, theirs.example_scores, strict=True)
            variance += worth**2 * _squared_error([x - y for x, y in pairs])
    return value, 1.96 * math.sqrt(variance) if known else None


def _squared_error(values: Sequence[float]) -> float:
    """Of the mean of at least two values."""
    n = len(values)
    mean = math.fsum(values) / n
    return math.fsum((x - mean) ** 2 for x in values) / (n - 1) / n
