"""The front of a run, as `evomerge show --front` prints it."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.table import Table
from rich.text import Text

from evomerge.analysis.front import FrontRow, RunFront
from evomerge.printable import printable
from evomerge.reports.table import short


def front_table(front: RunFront) -> Table:
    """A line for each model, best fitness first: on search examples, and held out if known."""
    held_out = any(row.held_out is not None for row in front.rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model")
    table.add_column("fitness", justify="right")
    if held_out:
        table.add_column("held-out", justify="right")
    for name, goal in front.goals.items():
        less = " (least)" if goal == "minimize" else ""
        table.add_column(Text(printable(f"{name}{less}")), justify="right")
    for row in front.rows:
        table.add_row(
            Text(printable(row.label or f"candidate {row.number}")),
            short(row.value),
            *([_or_nothing(row.held_out)] if held_out else []),
            *(_objective(row, name) for name in front.goals),
        )
    return table


def _objective(row: FrontRow, name: str) -> str:
    """The number on search examples, and the one on held-out ones unless no example counts."""
    found, unseen = row.search[name], row.held_out_search.get(name)
    if unseen is None or (unseen == found and not row.half_widths[name]):
        return _brief(found)
    return f"{_brief(found)} | {_brief(unseen)}"


def _brief(number: float) -> str:
    """A number in few characters; a whole one without decimals."""
    if number.is_integer() and abs(number) >= 2:
        return f"{number:.0f}"
    return f"{number:.3f}" if abs(number) < 100 else f"{number:.4g}"


def _or_nothing(value: float | None) -> str:
    return "" if value is None else short(value)


def told(front: RunFront) -> list[str]:
    """How many models the front is of, and how large it is on both splits."""
    left_out = [
        f"{front.dropped} are dominated by another in more than 90 % of resamples of the examples"
        if front.dropped
        else "",
        f"{front.thinned} add least to the hypervolume and are not shown" if front.thinned else "",
    ]
    of = (
        f"{front.nondominated} of {front.among} models that were asked everything are dominated by "
        "none"
    )
    lines = ["; ".join([of, *(part for part in left_out if part)]) + "."]
    if not front.rows:
        return [f"No model that was asked everything reaches all floors; {front.among} were."]
    size = f"Hypervolume of these {len(front.rows)}: {front.hypervolume:.4g} on search examples"
    if front.held_out_hypervolume is not None:
        size += f", {front.held_out_hypervolume:.4g} on held-out ones, which chose nothing"
    widths = [width for row in front.rows for width in row.half_widths.values() if width]
    if widths:
        both = any(row.held_out_search for row in front.rows)
        lines.append(
            f"Search scores have 95 % intervals of ± {_brief(min(widths))} to ± "
            f"{_brief(max(widths))}{'; behind the bar are held-out scores' if both else ''}."
        )
    return [*lines, f"{size}; measured from {_reference(front.reference)}."]


def _reference(reference: Mapping[str, float]) -> str:
    if not any(reference.values()):
        return "0 of each"
    return ", ".join(f"{name} {number:.4g}" for name, number in reference.items())
