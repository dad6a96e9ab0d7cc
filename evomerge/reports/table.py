"""The table that a run ends with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from rich import box
from rich.table import Table


class Cell(NamedTuple):
    """One recipe on one split: its fitness, the half width of its interval, scores by task."""

    value: float
    half_width: float
    tasks: Mapping[str, float]


class Line(NamedTuple):
    """One recipe: a name, its cells, None where it was not scored, and its stage if it has one."""

    name: str
    search: Cell | None
    held_out: Cell | None
    best: bool = False
    stage: str = ""


def comparison(lines: Iterable[Line], tasks: Sequence[str]) -> Table:
    """Recipes by splits, with held-out scores by task.

    Args:
        tasks: which tasks get a column, in order.
    """
    lines = list(lines)
    staged = any(line.stage for line in lines)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model")
    if staged:
        table.add_column("stage")
    table.add_column("search ± 95 %", justify="right")
    table.add_column("held-out ± 95 %", justify="right")
    for task in tasks:
        table.add_column(task, justify="right")
    for line in lines:
        shown = line.held_out or line.search
        cells = [f"{shown.tasks[t]:.1%}" if shown and t in shown.tasks else "" for t in tasks]
        style = "bold" if line.best else ""
        name = [line.name, line.stage] if staged else [line.name]
        table.add_row(*name, _pair(line.search), _pair(line.held_out), *cells, style=style)
    return table


def _pair(cell: Cell | None) -> str:
    return "" if cell is None else f"{cell.value:.3f} ± {cell.half_width:.3f}"
