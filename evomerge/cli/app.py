"""``evomerge``: the application, its groups of commands, and how errors leave it."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from evomerge.cli import lineage, listing, recipes, runs, statistics
from evomerge.cli._console import guard, talk
from evomerge.cli._stopping import stopping
from evomerge.errors import EvomergeError, InputError
from evomerge.version import __version__

_INTERRUPTED = 130  # typer exits with it too

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
    stopping.listen()
    guard()
    try:
        _run()
    except SystemExit as end:
        if stopping.number is None or end.code != _INTERRUPTED:
            raise
        stopping.ignore()
        sys.exit(128 + stopping.number)


def _run() -> None:
    """The application, with its errors as words on stderr and an exit code."""
    try:
        app()
    except InputError as error:
        if len(error.problems) > 1:
            _say(f"{len(error.problems)} problems:")
        for problem in error.problems:
            _say(problem)
        sys.exit(2)
    except EvomergeError as error:
        talk().print_lines(str(error), style="red")
        sys.exit(1)
    except OSError as error:
        _say(f"{error.filename or 'evomerge'}: {error.strerror or error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


def _say(text: str) -> None:
    talk().print(text, style="red")
