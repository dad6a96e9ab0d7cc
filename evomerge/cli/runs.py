"""Commands on searches and their run folders: check, run, resume, show."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from evomerge.cli._console import console, print_json, talk
from evomerge.cli._progress import progress_bar
from evomerge.printable import printable
from evomerge.version import __version__

if TYPE_CHECKING:
    from evomerge.analysis.run import Run

File = Annotated[Path, typer.Argument(help="The search YAML.", show_default=False)]
Folder = Annotated[Path, typer.Argument(help="The run's folder.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print data as JSON.")]
Overrides = Annotated[
    list[str],
    typer.Option("--set", help="Set one key, e.g. optimizer.population_size=8; repeatable."),
]


def check(
    search: Annotated[
        Path, typer.Argument(help="The search YAML, or a run's folder.", show_default=False)
    ],
    overrides: Overrides = [],  # noqa: B006
    probe: Annotated[
        bool, typer.Option("--probe", help="Time one candidate on a real worker.")
    ] = False,
    accept: Annotated[
        bool, typer.Option("--accept", help="Of a run: take what differs as it is now.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Report all problems of a search at once, its size and its cost; or what a run has lost."""
    from evomerge.store import Store

    folder = search if search.is_dir() else search.parent
    if search in (folder, Store.path(folder)):
        _check_run(folder, accept, as_json)
        return

    from evomerge.config.estimate import estimate
    from evomerge.config.load import load

    loaded = load(search, overrides)
    facts = estimate(loaded, probe=probe)
    if as_json:
        print_json(facts)
        return
    out, notes = console(), facts.pop("notes")
    for name, value in facts.items():
        if name in ("stages", "timed_stages"):
            for stage, inner in value.items():
                out.print(f"{f'stage {stage}':<24} {_listed(inner)}", soft_wrap=True)
        else:
            out.print(f"{name.replace('_', ' '):<24} {_listed(value)}", soft_wrap=True)
    for note in notes:
        out.print(f"note: {note}", soft_wrap=True)


def _check_run(folder: Path, accept: bool, as_json: bool) -> None:
    """Print what differs from what the run recorded; exit 1 where something does."""
    from evomerge.store import checking

    found = left = checking.differences(folder)
    if accept:
        checking.accept(folder)
        left = checking.differences(folder)
    if as_json:
        print_json({"differences": found, "accepted": accept and not left})
    else:
        out = console()
        for difference in found or ["all is as it was recorded"]:
            out.print(difference, soft_wrap=True)
        if accept:
            last = "accepted as it is" if not left else f"cannot be accepted: {left[0]}"
            out.print(last, soft_wrap=True)
    if left:
        raise typer.Exit(1)


def run(
    search: File,
    folder: Annotated[
        Path | None, typer.Option("--run", help="Where to keep the run. Default: runs/NAME.")
    ] = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Run a search and print what it found."""
    from evomerge import api
    from evomerge.config.load import load
    from evomerge.config.pace import advice, pace

    loaded = load(search, overrides)
    paces = [pace(stage, loaded.file.fitness) for stage in loaded.search.stages]
    for note in [*loaded.notes, *advice(paces)]:
        talk().print(f"note: {note}", soft_wrap=True)
    folder = folder or Path("runs") / loaded.file.name
    with progress_bar(folder) as observe:
        done = api.search(loaded, run=folder, progress=observe)
    _print(done)


def resume(
    folder: Folder,
    overrides: Annotated[
        list[str],
        typer.Option("--set", help="Another executor, e.g. executor.workers=4; repeatable."),
    ] = [],  # noqa: B006
    trust: Annotated[
        bool, typer.Option("--trust", help="Run code that a run from elsewhere names.")
    ] = False,
) -> None:
    """Go on with a run that was stopped or killed; nothing finished is evaluated again."""
    from evomerge import api

    loaded = api.load_run(folder, overrides, trust=trust or _confirmed)
    for note in loaded.notes:
        talk().print(f"note: {note}", soft_wrap=True)
    with progress_bar(folder) as observe:
        done = api.resume(folder, loaded, progress=observe)
    _print(done)


def show(
    folder: Folder,
    candidate: Annotated[
        str | None,
        typer.Option(help="Only this one: its number, or 'best'.", show_default=False),
    ] = None,
    front: Annotated[
        bool, typer.Option("--front", help="The front over its objectives, or its tasks.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show a run: progress, table, best recipes, failures. Also while it runs."""
    from evomerge.analysis.run import Run
    from evomerge.reports.candidate import described

    run, out = Run.open(folder), console()
    if front:
        if candidate is not None:
            raise typer.BadParameter("--front shows several: leave out --candidate")
        _print_front(run, as_json)
        return
    if candidate is not None:
        row = run.row(candidate)
        if as_json:
            print_json(row.as_json())
            return
        for line in described(run, row):
            out.print_lines(line)
        return
    if as_json:
        print_json(run.as_json())
        return
    _print(run)
    if run.throughput.candidates_per_hour is not None:
        out.print(f"{run.throughput.candidates_per_hour:.0f} candidates per hour")
    for share in run.throughput.workers:
        speed = share.tokens_per_second
        out.print(
            f"worker {share.worker}: {share.evaluations} evaluations, merge {share.merge:.0%}, "
            f"generation {share.generation:.0%}, scoring {share.scoring:.0%}, "
            f"waiting {share.waiting:.0%}"
            + ("" if speed is None else f", {speed:.0f} tokens/s generated"),
            soft_wrap=True,
        )


def _print_front(run: Run, as_json: bool) -> None:
    from evomerge.reports.front import front_table, told

    found = run.front()
    if as_json:
        print_json(asdict(found))
        return
    out = console(width=120)
    out.print(front_table(found))
    for line in told(found):
        out.print(printable(line), soft_wrap=True)


def _confirmed(code: Sequence[str]) -> bool:
    """Whether a person at a terminal lets a run from elsewhere run this."""
    err = talk()
    if not (sys.stdin.isatty() and err.is_terminal):
        return False
    err.print("This run was not begun on this machine by you. Resuming it runs:")
    for line in code:
        err.print(f"  {line}")
    return typer.confirm("Run this?", err=True)


def _listed(value: Any) -> str:
    """A value on one line; the keys and values of a mapping one after the other."""
    if not isinstance(value, dict):
        return str(value)
    inner = {k: f"({_listed(v)})" if isinstance(v, dict) else str(v) for k, v in value.items()}
    return ", ".join(f"{k} {v}" for k, v in inner.items())


def _print(run: Run) -> None:
    from evomerge.analysis.export import CHECKPOINT, RECIPE, lm_eval_commands
    from evomerge.reports.budget import left
    from evomerge.reports.choice import chosen
    from evomerge.reports.racing import raced
    from evomerge.reports.table import comparison

    out = console(width=120)
    state = "finished" if run.record.finished_utc else "not finished"
    done = sum(row.status == "done" for row in run.candidates)
    in_part = sum(row.status == "raced" for row in run.candidates)
    failed = [row for row in run.candidates if row.status == "failed"]
    out.print(
        f"{run.record.name}: {state}, {len(run.candidates)} candidates "
        f"({done} done, {f'{in_part} raced, ' if in_part else ''}{len(failed)} failed), "
        f"{run.elapsed_seconds:.0f} s",
    )
    for stage, start in run.starts.items():
        tried = sum(
            bool(row.candidate.label) and row.candidate.kind == "search"
            for row in run.candidates
            if row.candidate.stage == stage
        )
        of = f"stage {stage} started" if stage else "started"
        among = f", the best of {tried} points" if tried > 1 else ""
        text = f"{of} from: {start.candidate.label}{among}"
        out.print(printable(text), soft_wrap=True)
    for line in [*([] if run.racing is None else raced(run.racing)), *left(run)]:
        out.print(printable(line), soft_wrap=True)
    out.print(comparison(run))
    for line in [] if run.choice is None else chosen(run.choice):
        out.print(printable(line), soft_wrap=True)
    for row in failed[:3]:
        out.print_lines(f"candidate {row.number} failed: {row.error}")
    if len(failed) > 3:
        out.print(f"and {len(failed) - 3} more failed")
    recipe, checkpoint = run.folder / RECIPE, run.folder / CHECKPOINT
    if recipe.exists():
        out.print(f"recipe      {recipe}", soft_wrap=True)
    if checkpoint.exists():
        out.print(f"checkpoint  {checkpoint}", soft_wrap=True)
        for split, command in lm_eval_commands(run):
            text = f"score it ({split}):  {printable(command, lines=True)}"
            out.print(Text(text), soft_wrap=True)
    made_by = run.record.versions.get("evomerge")
    if run.record.finished_utc is None and made_by != __version__:
        out.print(f"go on with  evomerge {made_by}, which made it")
    elif run.record.finished_utc is None:
        where = shlex.quote(str(os.path.relpath(run.folder)))
        out.print(f"go on with  evomerge resume {where}", soft_wrap=True)
