"""Weights of the sources from which a search may start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

_ALL = (0.5, 0.7)
_LEADING, _BEHIND = 1.0, 0.3
_LEFT_OUT = 0.7


class SourceWeights(NamedTuple):
    """A weight for every source, and what they are called together."""

    label: str
    weights: dict[str, float]


def source_weights(best_first: Sequence[str]) -> list[SourceWeights]:
    """Equal weights, each source alone, each leading the others, and each left out.

    No such point is good for all models: of two zoos, one source alone is the best start on one,
    and all but one on the other.

    Args:
        best_first: the sources: what begins with the best, or leaves out the worst, comes first.
    """
    every = list(best_first)
    equal = [(f"1/{len(every)}", 1 / len(every)), *((f"{weight:g}", weight) for weight in _ALL)]
    found = [
        SourceWeights(f"{label} of each", dict.fromkeys(every, weight)) for label, weight in equal
    ]
    for best, worst in zip(every, reversed(every), strict=True):
        alone = dict.fromkeys(every, 0.0) | {best: _LEADING}
        found.append(SourceWeights(f"{best} alone", alone))
        if len(every) > 1:
            leading = dict.fromkeys(every, _BEHIND) | {best: _LEADING}
            found.append(SourceWeights(f"{best} leading", leading))
        if len(every) > 2:
            without = dict.fromkeys(every, _LEFT_OUT) | {worst: 0.0}
            found.append(SourceWeights(f"all but {worst}", without))
    return found
