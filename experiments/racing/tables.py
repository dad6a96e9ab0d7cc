"""Tables of scores by examples, with intervals over the seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.racing.methods import METHODS

BUDGETS = (2_000, 5_000, 10_000, 16_000, 40_000, 80_000)
# two-sided 95 % quantiles of Student's t, by degrees of freedom
_T = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78}


def table(rows: Mapping[str, Sequence[Sequence[float | None]]]) -> str:
    """Per cent, mean and 95 % t-interval over the seeds.

    Args:
        rows: method to (seeds, budgets) held-out scores in [0, 1].
    """
    heads = " | ".join(f"{budget // 1000}k" for budget in BUDGETS)
    lines = [f"| | {heads} |", "|---|" + "---|" * len(BUDGETS)]
    for method, seeds in rows.items():
        columns = [spread([one[k] for one in seeds]) for k in range(len(BUDGETS))]
        lines.append(f"| {METHODS[method].title} | {' | '.join(columns)} |")
    return "\n".join(lines)


def spread(scores: Sequence[float | None]) -> str:
    """Mean and half width of the interval, in per cent."""
    known = [score for score in scores if score is not None]
    if len(known) < len(scores) or not known:
        return "-"
    text = f"{100 * np.mean(known):.1f}"
    if len(known) == 1:
        return text
    half = _T[len(known) - 1] * float(np.std(known, ddof=1)) / math.sqrt(len(known))
    return f"{text} ± {100 * half:.1f}"


def level(rows: Mapping[str, Sequence[Sequence[float | None]]], peer: str, method: str) -> str:
    """With how many examples a method reaches what a peer has at the end."""
    wanted = _means(rows[peer])[-1]
    assert wanted is not None
    reached = [
        budget
        for budget, mean in zip(BUDGETS, _means(rows[method]), strict=True)
        if mean is not None and mean >= wanted
    ]
    text = f"{METHODS[peer].title} ends at {100 * wanted:.1f}"
    if not reached:
        return f"{text}; {METHODS[method].title}: never as good"
    factor = BUDGETS[-1] / reached[0]
    return f"{text}; {METHODS[method].title}: there with {reached[0]}, {factor:g} times fewer"


def _means(seeds: Sequence[Sequence[float | None]]) -> list[float | None]:
    columns = [[one[k] for one in seeds] for k in range(len(BUDGETS))]
    return [
        None if None in column else float(np.mean([x for x in column if x is not None]))
        for column in columns
    ]
