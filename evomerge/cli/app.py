"""``evomerge``: the application, its groups of commands, and how errors leave it."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from evomerge.cli import lineage, listing, recipes, runs, statistics
from evomerge.cli._console import guard, talk
from evomerge.cli._room import keep_room
from evomerge.cli._stopping import stopping
from evomerge.errors import EvomergeError, InputError, OperatorError
from evomerge.faults import cure_for_machine, memory_ran_out
from evomerge.version import __version__

_INTERRUPTED = 130  # typer exits with it too
_MOST_PROBLEMS = 100
_MEMORY = (
    "Give this process more (`ulimit -v unlimited` in the shell that starts it; see also "
    "`ulimit -u`), or end others."
)

app = typer.Typer(
    name="evomerge",
    help="Search for the best way to merge existing language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    *(runs.check, runs.run, runs.resume, runs.show),
    *(recipes.export, recipes.build, recipes.convert, recipes.evaluate),
    *(lineage.lineage, statistics.statistics),
):
    app.command()(command)
app.command("list")(listing.list_)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Search for the best way to merge existing language models."""


def main() -> None:
    """Exit 0: done. 1: our failure. 2: wrong input. 130: stopped by Ctrl-C. 143: by SIGTERM."""
    # nothing here sends anything anywhere, and no library should wait for a network
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of what we do on purpose
    guard()
    keep_room()
    try:
        _run()
    except SystemExit as end:
        if stopping.number is None or end.code != _INTERRUPTED:
            stopping.leave()
            raise
        stopping.end()


def _run() -> None:
    """The application, with its errors as words on stderr and an exit code."""
    try:
        app()
    except InputError as error:
        if len(error.problems) > 1:
            _say(f"{len(error.problems)} problems:")
        for problem in error.problems[:_MOST_PROBLEMS]:
            _say(problem)
        if (more := len(error.problems) - _MOST_PROBLEMS) > 0:
            _say(f"and {more} more")
        sys.exit(2)
    except OperatorError as error:  # which values are out of its domain, only the tensors told
        _say(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except Exception as error:
        if memory_ran_out(error):
            words = " ".join(str(error).split()) or type(error).__name__
            # without the console, which takes some
            print(
                f"memory ran out, or no thread could be started: {words}. {_MEMORY}",
                file=sys.stderr,
            )
        elif isinstance(error, EvomergeError):
            talk().print_lines(str(error), style="red")
        elif isinstance(error, OSError):
            cure = cure_for_machine(error)
            reason = f"{error.filename or 'evomerge'}: {error.strerror or error}"
            _say(f"{reason}. {cure}." if cure else reason)
        else:
            raise
        sys.exit(1)


def _say(text: str) -> None:
    talk().print(text, style="red")
