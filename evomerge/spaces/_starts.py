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


def source_weights(sources: Sequence[str]) -> list[SourceWeights]:
    """Equal weights, each source alone, each leading the others, and each left out.

    No such point is good for all models: of two zoos, one source alone is the best start on one,
    and all but one on the other.
    """
    every = list(sources)
    found = [
        SourceWeights(f"{label} of each", dict.fromkeys(every, weight))
        for label, weight in [(f"1/{len(every)}", 1 / len(every)), *((f"{w:g}", w) for w in _ALL)]
    ]
    for one in every:
        others = [name for name in every if name != one]
        alone = dict.fromkeys(every, 0.0) | {one: _LEADING}
        found.append(SourceWeights(f"{one} alone", alone))
        if others:
            leading = dict.fromkeys(every, _BEHIND) | {one: _LEADING}
            found.append(SourceWeights(f"{one} leading", leading))
        if len(others) > 1:
            without = dict.fromkeys(every, _LEFT_OUT) | {one: 0.0}
            found.append(SourceWeights(f"all but {one}", without))
    return found
