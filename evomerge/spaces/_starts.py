"""How much of each source a search may start with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

_ALL = (0.5, 0.7)
_LEADING, _BEHIND = 1.0, 0.3
_LEFT_OUT = 0.7


class SourceWeights(NamedTuple):
    """A weight for every source, and what they are called together."""

    label: str
    weights: dict[str, float]


def source_weights(sources: Sequence[str], best_first: Sequence[str] = ()) -> list[SourceWeights]:
    """Each source alone, each leading the others, each left out, and equal weights of all.

    No such point is good for all models: of two zoos, one source alone is the best start on one,
    and all but one on the other.

    Args:
        best_first: some of the sources, by how they did alone: what begins with the best, or
            leaves out the worst, comes first, and equal weights behind it.
    """
    known = [name for name in best_first if name in sources]
    every = list(dict.fromkeys([*known, *sources]))
    found = list(_of_one(every, 0))
    if len(every) > 1:
        found.append(SourceWeights(f"1/{len(every)} of each", dict.fromkeys(every, 1 / len(every))))
    of = "each" if len(every) > 1 else every[0]
    found += [SourceWeights(f"{weight:g} of {of}", dict.fromkeys(every, weight)) for weight in _ALL]
    return found + [one for rank in range(1, len(every)) for one in _of_one(every, rank)]


def _of_one(every: Sequence[str], rank: int) -> Iterator[SourceWeights]:
    """One source alone, leading the others, and one left out, by their ranks from both ends."""
    best, worst = every[rank], every[-1 - rank]
    yield SourceWeights(f"{best} alone", dict.fromkeys(every, 0.0) | {best: _LEADING})
    if len(every) > 1:
        yield SourceWeights(f"{best} leading", dict.fromkeys(every, _BEHIND) | {best: _LEADING})
    if len(every) > 2:
        yield SourceWeights(f"all but {worst}", dict.fromkeys(every, _LEFT_OUT) | {worst: 0.0})
