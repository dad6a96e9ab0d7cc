"""What a run that raced says of it: what was asked, and how well a few examples ranked."""

from __future__ import annotations

from evomerge.analysis.racing import RacingSummary
from evomerge.analysis.ranking import Ranking

_ENOUGH = 0.5


def raced(summary: RacingSummary) -> list[str]:
    """What was asked, against asking all of everybody, and how well the first rungs ranked."""
    of = summary.all_examples
    by_rung = ", ".join(
        f"{'all' if asked == of else asked} of {number}"
        for asked, number in summary.candidates.items()
    )
    lines = [
        f"raced: {summary.examples:,} examples asked of {sum(summary.candidates.values()):,} "
        f"candidates ({by_rung}), {summary.factor:.1f} times fewer than all {of:,} of each"
    ]
    if summary.tokens:
        lines.append(
            f"raced: {summary.tokens:,} tokens generated, about {summary.tokens_in_full:,} "
            "for all of each"
        )
    for stage, ranking in summary.ranking.items():
        lines += _ranking(f"{stage}: " if stage else "", ranking)
    return lines


def _ranking(stage: str, ranking: Ranking) -> list[str]:
    early, half = ranking.in_first_third, ranking.for_half
    trend = "" if early is None else f" ({early:.2f} in the first third of the cohorts)"
    enough = "" if half is None else f"; {half:,} would have {_ENOUGH}"
    lines = [
        f"ranking by {ranking.first} examples: reliability {ranking.reliability:.2f}{trend}{enough}"
    ]
    lines += [
        f"from cohort {cohort} on, {first} were asked at first: fewer hardly ranked at all"
        for cohort, first in ranking.raised.items()
    ]
    if ranking.reliability > _ENOUGH:
        lines.append(f"racing.first could be smaller, such as {half}")
    return [f"{stage}{line}" for line in lines]
