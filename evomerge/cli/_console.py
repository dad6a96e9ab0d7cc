"""Where commands write: stdout for what was asked, stderr for talk, and control characters nowhere.

Names from files are printed as they are seen, never as they are obeyed: see `printable`. Nothing
that is printed is read as rich's markup.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import typer
from rich.console import Console
from rich.text import Text

from evomerge.printable import REPLACED, printable, spelled

# what libraries may do to a terminal: colours, and the return to the beginning of a line
_OF_LIBRARIES = re.compile(r"(\x1b\[[0-9;]*m|\r|\t)")


class PlainConsole(Console):
    """A console that prints a string as one line, as it is, control characters escaped.

    A terminal that lacks a letter, such as ``±``, gets another in its place.
    """

    def render_str(self, text: str, **options: Any) -> Text:
        """See `Console`: no markup, emoji or highlights, which a name could hold as well."""
        plain = {"emoji": False, "markup": False, "highlight": False}
        shown = spelled(printable(text), self.encoding)  # before its width is counted
        return super().render_str(shown, **{**options, **plain})

    def print_lines(self, text: str, style: str = "") -> None:
        """Print text of several lines, all after the first one indented."""
        for number, line in enumerate(text.split("\n")):
            self.print(f"    {line}" if number else line, style=style, soft_wrap=True)


def console(width: int | None = None) -> PlainConsole:
    """Stdout.

    Args:
        width: in characters, where it is no terminal.
    """
    made = PlainConsole(file=_own(sys.stdout), highlight=False)
    if width is not None and not made.is_terminal:
        made.width = width
    return made


def talk() -> PlainConsole:
    """Stderr, on which lines are as long as they are."""
    return PlainConsole(file=_own(sys.stderr), soft_wrap=True, highlight=False)


def print_json(content: Any) -> None:
    """Print data as JSON, in ASCII."""
    text = json.dumps(content, indent=2)
    typer.echo(text.replace("\x7f", "\\u007f"))  # the one control character that JSON lets pass


def print_data(text: str) -> None:
    """Print text that a program may read: as it is, in UTF-8, except on a terminal."""
    if sys.stdout.isatty():
        typer.echo(printable(text, lines=True), nl=False)
    elif (binary := getattr(sys.stdout, "buffer", None)) is None:  # redirected in this process
        sys.stdout.write(text)
    else:
        sys.stdout.flush()
        binary.write(text.encode(errors="surrogateescape"))  # a path has its own bytes
        binary.flush()


class _Teller(logging.Handler):
    """Prints what is logged, on a console that may show a progress bar meanwhile."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record as one line."""
        self._console.print(record.getMessage())


@contextmanager
def telling(name: str, console: Console) -> Iterator[None]:
    """Print what a logger and those below it say, from INFO on."""
    logger, teller = logging.getLogger(name), _Teller(console)
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(teller)
    try:
        yield
    finally:
        logger.removeHandler(teller)
        logger.setLevel(level)


class _Guarded:
    """A stream that escapes control characters, for whoever writes to it without a console."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write text, of which every second part is harmless as it is."""
        parts = enumerate(_OF_LIBRARIES.split(text))
        plain = (part if number % 2 else printable(part, lines=True) for number, part in parts)
        self.stream.write("".join(plain))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of them."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _own(stream: TextIO) -> TextIO:
    """The stream behind its guard: what a console writes to it is safe already."""
    return stream.stream if isinstance(stream, _Guarded) else stream


def guard() -> None:
    """Escape what logs, warnings, tracebacks and libraries write from now on, too.

    Standard output is left alone where a program reads it, but for letters that it cannot be given.
    """
    streams: Any = sys
    for stream in (streams.stdout, streams.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=REPLACED)
    streams.stderr = _Guarded(sys.stderr)
    if sys.stdout.isatty():
        streams.stdout = _Guarded(sys.stdout)
