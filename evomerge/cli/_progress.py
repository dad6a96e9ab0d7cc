"""How far a search is, while a command waits for it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from evomerge.cli._console import talk, telling
from evomerge.cli._stopping import stopping
from evomerge.printable import printable

if TYPE_CHECKING:
    from evomerge.search.spec import Observer
    from evomerge.search.spec import Progress as Standing


@contextmanager
def progress_bar(folder: Path) -> Iterator[Observer]:
    """A progress bar: yields its observer, and says how to resume when the search is stopped."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("best {task.fields[best]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    from evomerge.reports.table import short

    err = talk()
    try:
        with Progress(*columns, console=err) as progress, telling("evomerge.search", err):
            bar = progress.add_task("opening models", total=None, best="-", left="")

            def observe(now: Standing) -> None:
                stopping.raise_if_asked()
                best = "-" if now.best is None else short(now.best)
                progress.update(
                    bar,
                    description=printable(now.stage),
                    completed=now.done,
                    total=now.total,
                    best=best,
                    left=_time_left(now),
                )

            yield observe
    except KeyboardInterrupt:
        from evomerge.store import Store

        if Store.exists(folder):
            where = shlex.quote(str(folder))
            stopping.message = ""
            err.print(
                f"Stopped; nothing that was finished is lost. Go on with: evomerge resume {where}"
            )
        raise


def _time_left(now: Standing) -> str:
    if not now.done or now.total is None or now.done >= now.total:
        return ""
    seconds = now.elapsed_seconds / now.done * (now.total - now.done)
    return f"{int(seconds // 60)}:{int(seconds % 60):02d} left"
