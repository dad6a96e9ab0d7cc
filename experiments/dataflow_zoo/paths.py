"""Paths through blocks, and a picture of them: a row for each, hops coloured by their source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch

from evomerge.recipes import Recipe

MERGED = "merged"
_COLOURS = {
    "base": "#9a9a9a",
    "arithmetic": "#0072b2",
    "strings": "#009e73",
    "kanji": "#d55e00",
    MERGED: "#8e5ea2",
}
_WIDTH, _HEIGHT = 0.56, 0.62  # of a block, where hops are 1 long


class Hop(NamedTuple):
    """One block of a path.

    Attributes:
        source: whose block, or `MERGED`.
        layer: its number there.
        scale: of the stream on its way into the block.
    """

    source: str
    layer: int
    scale: float


def hops(recipe: Recipe, models: Mapping[str, str], layers: int = 0) -> list[Hop]:
    """The path of a recipe.

    Args:
        models: reference to name, of the search's base and sources.
        layers: blocks of a merge that does not stack any.
    """
    if not recipe.slices:
        return [Hop(MERGED, layer, 1.0) for layer in range(layers)]
    scales = recipe.scales or (1.0,) * (recipe.depth or 0)
    named = {"base": recipe.base, **recipe.sources}
    found: list[Hop] = []
    for slice_ in recipe.slices:
        reference = named[next(iter(slice_))]
        one = len(slice_) == 1 and isinstance(reference, str)
        source = models[str(reference)] if one else MERGED
        for layer in range(*next(iter(slice_.values()))):
            found.append(Hop(source, layer, scales[len(found)]))
    return found


@dataclass(frozen=True, slots=True)
class Row:
    """A path with what is written beside it."""

    title: str
    note: str
    path: Sequence[Hop]


def draw(groups: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Write a picture: blocks from the embedding, left, to the head, right.

    A line's width grows with the scale on that hop, which is written beside it.
    """
    rows = sum(len(group) + 1 for group in groups.values())
    longest = max(len(row.path) for group in groups.values() for row in group)
    figure = Figure(figsize=(1.05 * longest + 3.2, 0.42 * rows + 0.9), layout="constrained")
    panel = figure.subplots()
    height = float(rows)
    for title, group in groups.items():
        height -= 1
        panel.text(-2.3, height - 0.1, title, fontsize=10, fontweight="bold", va="center")
        for row in group:
            height -= 1
            panel.text(-2.1, height, row.title, fontsize=8, va="center")
            _draw_path(panel, row, height)
    panel.set(xlim=(-2.4, longest + 1.6), ylim=(-0.6, rows))
    panel.set_axis_off()
    used = {hop.source for group in groups.values() for row in group for hop in row.path}
    patches = [Patch(color=_COLOURS[name], label=name) for name in _COLOURS if name in used]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
    figure.savefig(path, dpi=140, metadata={"Software": None})


def _draw_path(panel: Axes, row: Row, height: float) -> None:
    for place, hop in enumerate(row.path):
        if place:
            _draw_hop(panel, place, height, hop.scale)
        corner = (place - _WIDTH / 2, height - _HEIGHT / 2)
        colour = _COLOURS[hop.source]
        panel.add_patch(
            FancyBboxPatch(corner, _WIDTH, _HEIGHT, boxstyle="round,pad=0.02", color=colour)
        )
        panel.text(
            place, height, str(hop.layer), color="white", fontsize=9, ha="center", va="center"
        )
    panel.text(len(row.path) - 0.3, height, row.note, fontsize=8, va="center")


def _draw_hop(panel: Axes, place: int, height: float, scale: float) -> None:
    """A line into a block: 2 points wide at 1, 5.5 at 1.4, 0.7 at 0.7."""
    ends = [place - 1 + _WIDTH / 2, place - _WIDTH / 2]
    panel.plot(ends, [height] * 2, lw=2 * abs(scale) ** 3, color="black", zorder=0)
    if scale != 1:
        middle = place - 0.5
        panel.text(middle, height + 0.17, f"{scale:.2f}", fontsize=6, ha="center", va="bottom")
