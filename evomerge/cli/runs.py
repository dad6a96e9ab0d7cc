"""Commands on searches and their run folders: check, run, resume, show."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from evomerge.cli._stopping import stopping

if TYPE_CHECKING:
    from evomerge.analysis.summary import Row, Summary
    from evomerge.analysis.throughput import Throughput
    from evomerge.config.load import Loaded
    from evomerge.config.schema import SearchFile
    from evomerge.reports.table import Cell
    from evomerge.search.spec import Progress as Standing

File = Annotated[Path, typer.Argument(help="The search YAML.", show_default=False)]
Folder = Annotated[Path, typer.Argument(help="The run's folder.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print data as JSON.")]
Overrides = Annotated[
    list[str],
    typer.Option("--set", help="Set one key, e.g. optimizer.population_size=8; repeatable."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (check, run, resume, show):
        app.command()(command)


def check(
    search: File,
    overrides: Overrides = [],  # noqa: B006
    probe: Annotated[
        bool, typer.Option("--probe", help="Time one candidate on a real worker.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Report all problems of a search at once, its size and its cost."""
    from evomerge.config.estimate import estimate
    from evomerge.config.load import load

    loaded = load(search, overrides)
    facts = estimate(loaded, probe=probe)
    if as_json:
        typer.echo(json.dumps({**facts, "notes": loaded.notes}, indent=2))
        return
    console = Console(highlight=False, soft_wrap=True)
    for name, value in facts.items():
        if name in ("stages", "timed_stages"):
            for stage, inner in value.items():
                console.print(f"{f'stage {stage}':<24} {_listed(inner)}", markup=False)
        else:
            console.print(f"{name.replace('_', ' '):<24} {_listed(value)}", markup=False)
    for note in loaded.notes:
        console.print(f"note: {note}", markup=False)


def run(
    search: File,
    folder: Annotated[
        Path | None, typer.Option("--run", help="Where to keep the run. Default: runs/NAME.")
    ] = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Run a search and print what it found."""
    from evomerge.config.load import load
    from evomerge.search.run import start

    loaded = load(search, overrides)
    place = folder or Path("runs") / loaded.file.name
    for note in loaded.notes:
        Console(stderr=True, soft_wrap=True).print(f"note: {note}", markup=False)
    _search(loaded, place, start)


def resume(
    folder: Folder,
    overrides: Annotated[
        list[str],
        typer.Option("--set", help="Another executor, e.g. executor.workers=4; repeatable."),
    ] = [],  # noqa: B006
) -> None:
    """Go on with a run that was stopped or killed; nothing finished is evaluated again."""
    loaded = _stored(folder, overrides)

    from evomerge.search.run import resume as resume_search

    _search(loaded, folder, resume_search)


def show(folder: Folder, as_json: Json = False) -> None:
    """Show a run: progress, table, best recipes, failures. Also while it runs."""
    file, summary = _outcome(folder)
    usage = _usage(folder)
    if as_json:
        typer.echo(json.dumps(summary.as_json() | {"usage": usage.as_json()}, indent=2))
        return
    _print(file, summary, folder)
    console = Console(highlight=False, soft_wrap=True)
    if usage.candidates_per_hour is not None:
        console.print(f"{usage.candidates_per_hour:.0f} candidates per hour")
    for share in usage.workers:
        speed = share.tokens_per_second
        console.print(
            f"worker {share.worker}: {share.evaluations} evaluations, merge {share.merge:.0%}, "
            f"generation {share.generation:.0%}, scoring {share.scoring:.0%}, "
            f"waiting {share.waiting:.0%}"
            + ("" if speed is None else f", {speed:.0f} tokens/s generated"),
            markup=False,
        )


def _listed(value: Any) -> str:
    """A fact on one line, those within it one after the other."""
    if not isinstance(value, dict):
        return str(value)
    inner = {k: f"({_listed(v)})" if isinstance(v, dict) else str(v) for k, v in value.items()}
    return ", ".join(f"{k} {v}" for k, v in inner.items())


def _stored(folder: Path, overrides: list[str]) -> Loaded:
    """The search that a run was started with, perhaps on other workers."""
    from evomerge.config.resume import require_version, resumed
    from evomerge.store import Store

    with Store.open(folder, read_only=True) as store:  # of an older version it stays as it is
        run = store.run()
    resumed(run.search_yaml, str(folder), overrides)
    require_version(run, folder)

    from evomerge.config.load import load_resolved  # seconds of imports, after what needs none

    return load_resolved(run.search_yaml, str(folder), overrides)


def _outcome(folder: Path) -> tuple[SearchFile, Summary]:
    """A run's keys and what came out so far; its models need not exist any more."""
    from evomerge.analysis.summary import read_summary
    from evomerge.config.schema import read_resolved
    from evomerge.store import Store

    with Store.open(folder, read_only=True) as store:
        file = read_resolved(store.run().search_yaml, str(folder))
        return file, read_summary(folder, file.fitness, store)


def _usage(folder: Path) -> Throughput:
    """Where the run's time went."""
    from evomerge.analysis.throughput import read_throughput
    from evomerge.store import Store

    with Store.open(folder, read_only=True) as store:
        return read_throughput(store)


def _search(loaded: Loaded, folder: Path, go: Callable[..., None]) -> None:
    """Search under a progress bar, then write what was found and show it."""
    from evomerge.analysis.export import write_results

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("best {task.fields[best]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    talk = Console(stderr=True)
    try:
        with Progress(*columns, console=talk) as progress:
            bar = progress.add_task("opening models", total=None, best="-", left="")

            def observe(now: Standing) -> None:
                stopping.raise_if_asked()
                best = "-" if now.best is None else f"{now.best:.3f}"
                progress.update(
                    bar,
                    description=now.stage,
                    completed=now.done,
                    total=now.total,
                    best=best,
                    left=_time_left(now),
                )

            go(loaded.search, folder, observe)
    except KeyboardInterrupt:
        if (folder / "run.sqlite").exists():
            where = shlex.quote(str(folder))
            talk.print(
                f"Stopped; nothing that was finished is lost. Go on with: evomerge resume {where}",
                soft_wrap=True,
                markup=False,
            )
        raise
    file, summary = _outcome(folder)
    write_results(file, summary)
    _print(file, summary, folder)


def _time_left(now: Standing) -> str:
    if not now.done or now.total is None or now.done >= now.total:
        return ""
    seconds = now.elapsed_seconds / now.done * (now.total - now.done)
    return f"{int(seconds // 60)}:{int(seconds % 60):02d} left"


def _print(file: SearchFile, summary: Summary, folder: Path) -> None:
    """The table, then where things are."""
    from evomerge.analysis.export import CHECKPOINT, RECIPE, lm_eval_commands
    from evomerge.reports.table import Line, comparison

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    state = "finished" if summary.run.finished_utc else "not finished"
    done = sum(row.status == "done" for row in summary.candidates)
    failed = [row for row in summary.candidates if row.status == "failed"]
    console.print(
        f"{summary.run.name}: {state}, {len(summary.candidates)} candidates "
        f"({done} done, {len(failed)} failed), {summary.elapsed_seconds:.0f} s",
        markup=False,
    )
    lines = [
        Line(row.label, _cell(row, "search"), _cell(row, "held_out")) for row in summary.baselines
    ]
    known = {row.digest for row in summary.baselines}  # a search may begin with some of them
    others = [
        r
        for r in summary.candidates
        if r.held_out and r is not summary.best and r.digest not in known
    ]
    if summary.best is not None:
        best = summary.best
        name = f"best recipe: {_name(best)}"
        cells = _cell(best, "search"), _cell(best, "held_out")
        lines.append(Line(name, *cells, best=True, stage=best.stage))
    lines += [
        Line(_name(row), _cell(row, "search"), _cell(row, "held_out"), stage=row.stage)
        for row in others
    ]
    console.print(comparison(lines, list(file.fitness.tasks)))
    for row in failed[:3]:
        console.print(f"candidate {row.number} failed: {row.error}", markup=False, soft_wrap=True)
    if len(failed) > 3:
        console.print(f"and {len(failed) - 3} more failed")
    if (folder / RECIPE).exists():
        console.print(f"recipe      {folder / RECIPE}", markup=False, soft_wrap=True)
    if (folder / CHECKPOINT).exists():
        console.print(f"checkpoint  {folder / CHECKPOINT}", markup=False, soft_wrap=True)
        for split, command in lm_eval_commands(file, folder / CHECKPOINT):
            console.print(f"score it ({split}):  {command}", markup=False, soft_wrap=True)
    if summary.run.finished_utc is None:
        where = shlex.quote(str(os.path.relpath(folder)))
        console.print(f"go on with  evomerge resume {where}", markup=False, soft_wrap=True)


def _name(row: Row) -> str:
    name = f"{row.kind} {row.number}" if row.kind == "mean" else f"candidate {row.number}"
    return name if row.layers is None else f"{name}, {row.layers} layers"


def _cell(row: Row, split: str) -> Cell | None:
    from evomerge.reports.table import Cell

    found = row.search if split == "search" else row.held_out
    return None if found is None else Cell(found.value, found.half_width, found.tasks)
