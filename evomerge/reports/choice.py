"""What a run says under its table: what the lead of its best recipe is worth."""

from __future__ import annotations

from evomerge.analysis.choice import Choice, Difference
from evomerge.reports.table import short

_SPLITS = {"held_out": "held-out", "search": "search"}


def chosen(choice: Choice) -> list[str]:
    """Among how many the best recipe was chosen, and how far it is above the baselines."""
    return [_optimism(choice), *([_differences(choice)] if choice.differences else [])]


def _optimism(choice: Choice) -> str:
    if choice.among == 1 and choice.optimism is None:
        return (
            "Nothing else was asked everything, but it is the best of several starts: its search "
            "score may be too high by that choice."
        )
    if choice.among == 1:
        return "Nothing else was asked everything: its search score is not the best of several."
    best = f"The best of {choice.among:,} that were asked everything"
    if choice.optimism is None:
        return f"{best}: its search score may be too high by that choice."
    return f"{best}: its search score may be {short(choice.optimism)} too high by that choice."


def _differences(choice: Choice) -> str:
    source, best = choice.differences[0], choice.differences[-1]
    if source.baseline == best.baseline:
        words = [_above(best, f"the best baseline ({best.label})")]
    else:
        name = source.label.removeprefix("source: ")
        words = [
            _above(source, f"the best source ({name})"),
            _above(best, f"the best baseline ({best.label})"),
        ]
    return f"On {_SPLITS[choice.split]} examples it is {', and '.join(words)}."


def _above(difference: Difference, what: str) -> str:
    value, half_width = difference.value, difference.half_width
    by = short(abs(value))
    if half_width is None:
        return f"{by} {'above' if value >= 0 else 'below'} {what}, of which no interval is known"
    text = f"{by} ± {short(half_width)} {'above' if value >= 0 else 'below'} {what}"
    return text if difference.better else f"{text}, not shown to be better"
