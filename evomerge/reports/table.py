"""The table that a run ends with."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from evomerge.analysis.rows import Row, Score
from evomerge.analysis.run import Run
from evomerge.printable import printable
from evomerge.types import FINAL_ESTIMATE

_FEW_DIGITS = 1e6


def comparison(run: Run) -> Table:
    """The baselines, the best recipe, and all others with held-out scores, by split and task.

    Tasks show the held-out score where there is one.
    """
    baselines = {row.recipe.digest for row in run.baselines}  # a search may begin with some of them
    others = [
        row
        for row in run.candidates
        if row.held_out and row is not run.best and row.recipe.digest not in baselines
    ]
    rows = [*run.baselines, *([run.best] if run.best else []), *others]
    staged = any(row.candidate.stage for row in rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model")
    if staged:
        table.add_column("stage")
    table.add_column("search ± 95 %", justify="right")
    table.add_column("held-out ± 95 %", justify="right")
    floors = bool(run.file.fitness.floor)
    if floors:
        table.add_column("floors", justify="right")
    for task in run.file.fitness.tasks:
        table.add_column(_plain(task), justify="right")
    for row in rows:
        best, shown = row is run.best, row.held_out or row.search
        tasks = shown.tasks if shown else {}
        table.add_row(
            _plain(f"best recipe: {name(row)}" if best else name(row)),
            *([_plain(row.candidate.stage)] if staged else []),
            with_interval(row.search),
            with_interval(row.held_out),
            *([_reached(row)] if floors else []),
            *(share(tasks[t]) if t in tasks else "" for t in run.file.fitness.tasks),
            style="bold" if best else "",
        )
    return table


def _plain(name: str) -> Text:
    """A name that no console takes for anything else."""
    return Text(printable(name))


def name(row: Row) -> str:
    """What a candidate is called."""
    candidate = row.candidate
    if candidate.kind == "baseline":
        return candidate.label
    text = f"{'final estimate' if candidate.kind == FINAL_ESTIMATE else 'candidate'} {row.number}"
    return text if row.recipe.depth is None else f"{text}, {row.recipe.depth} layers"


def with_interval(score: Score | None) -> str:
    """A fitness with its 95 % interval; nothing without one."""
    return "" if score is None else f"{short(score.value)} ± {short(score.half_width)}"


def _reached(row: Row) -> str:
    """Whether a model reaches what it must on the search examples, or what it lacks of it."""
    if row.shortfall is None:
        return ""
    return f"lacks {share(row.shortfall)}" if row.shortfall else "reached"


def short(value: float) -> str:
    """A fitness in a few characters, whatever its size."""
    return f"{value:.3f}" if abs(value) < _FEW_DIGITS else f"{value:.3e}"


def share(score: float) -> str:
    """A task's score in a few characters, whatever its size."""
    return f"{score:.1%}" if abs(score) < _FEW_DIGITS else f"{score:.3e}"
