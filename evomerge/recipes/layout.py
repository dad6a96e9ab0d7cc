"""The merged tensors laid end to end, so that a number names one element of the model."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import accumulate, pairwise

from evomerge.errors import RecipeError
from evomerge.plugins.registry import did_you_mean
from evomerge.recipes._segments import Segments
from evomerge.recipes._settings import ROLES
from evomerge.recipes.places import Place, precedes_blocks

REST = ("rest", "all")
Chromosomes = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Layout:
    """The order of the tensors: by chromosome, then embedding, blocks, final norm, head, then name.

    Attributes:
        names: (T,) tensors.
        starts: (T + 1,) the first element of each tensor, and the number of all elements.
        layers: (L + 1,) the starts at which a block, the part before or after the blocks, or a
            chromosome begins, and the end.
        edges: (C + 1,) the starts at which a chromosome begins, and the end.
    """

    names: tuple[str, ...]
    starts: tuple[int, ...]
    layers: tuple[int, ...]
    edges: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements of all tensors."""
        return self.starts[-1]

    def pieces(self, segments: Segments) -> dict[str, tuple[tuple[int, tuple[float, ...]], ...]]:
        """For each tensor where its pieces end, counted from its first element, and their weights.

        Args:
            segments: as long as the layout.
        """
        bounds = segments.bounds
        pieces = {}
        for name, (start, stop) in zip(self.names, pairwise(self.starts), strict=True):
            first, last = bisect_right(bounds, start) - 1, bisect_left(bounds, stop)
            pieces[name] = tuple(
                (min(bounds[index + 1], stop) - start, segments.rows[index])
                for index in range(first, last)
            )
        return pieces


def lay_out(
    places: Mapping[str, Place], sizes: Mapping[str, int], chromosomes: Chromosomes
) -> Layout:
    """The canonical order of the tensors.

    Args:
        places: tensor name to block and role.
        sizes: tensor name to its number of elements.
        chromosomes: (C,) groups of words: a role, a pattern of names (``model.layers.0.*``), or
            ``rest`` (or ``all``) for what no other word selects. The first group that fits counts.

    Raises:
        RecipeError: words that select nothing, and tensors that none selects.
    """
    group_of = {name: _group(name, place, chromosomes) for name, place in places.items()}
    known = sorted({place.role for place in places.values()})
    problems = [
        f"chromosomes: no tensor belongs to {', '.join(words) or 'an empty one'}."
        f"{did_you_mean(words[0] if words else '', [*known, 'rest'])}"
        for number, words in enumerate(chromosomes)
        if number not in group_of.values()
    ]
    if stray := [name for name, group in group_of.items() if group is None]:
        problems.append(
            f"chromosomes: {len(stray)} tensors belong to none, {min(stray)} first. "
            f"Add 'rest'. Known words: {', '.join(ROLES)}, rest, patterns of names."
        )
    if problems:
        raise RecipeError(problems)
    keys = {name: (group_of[name] or 0, _depth(name, places[name])) for name in places}
    names = sorted((name for name in places if sizes[name]), key=lambda name: (keys[name], name))
    starts = [0, *accumulate(sizes[name] for name in names)]
    blocks, edges = [], []
    for number, name in enumerate(names):
        before = keys[names[number - 1]] if number else None
        if keys[name] != before:
            blocks.append(starts[number])
        if before is None or keys[name][0] != before[0]:
            edges.append(starts[number])
    return Layout(tuple(names), tuple(starts), (*blocks, starts[-1]), (*edges, starts[-1]))


def _depth(name: str, place: Place) -> tuple[int, int]:
    """A sort key: before the blocks, in one of them, after them, then the head."""
    if place.layer is not None:
        return (1, place.layer)
    if precedes_blocks(name, place):
        return (0, 0)
    return (3, 0) if place.role == "head" else (2, 0)


def _group(name: str, place: Place, chromosomes: Chromosomes) -> int | None:
    rest = None
    for number, words in enumerate(chromosomes):
        for word in words:
            if word in REST:
                rest = number if rest is None else rest
            elif place.role == word or fnmatchcase(name, word):
                return number
    return rest
