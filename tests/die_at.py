"""Dies in a search, again and again: ``python die_at.py FOLDER STEP ... < RESOLVED_SEARCH``.

Each process begins the run or goes on with it, and kills itself with SIGKILL where the run would
record its STEPth event, counted from its beginning. All are forked from this one, for which the
imports are done once. Prints the exit code of each, and how many events were recorded by then.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from evomerge.config import load_resolved
from evomerge.runs import resume, start


def recorded(folder: Path) -> int:
    """How many events the run has recorded."""
    if not (folder / "run.sqlite").exists():
        return 0
    with sqlite3.connect(folder / "run.sqlite", timeout=60) as base:
        return int(base.execute("SELECT count(*) FROM events").fetchone()[0])


def go(text: str, folder: Path, step: int) -> None:
    """Search, and die at that event."""
    done = recorded(folder)

    def execute(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
        nonlocal done
        done += statement.startswith("INSERT INTO events")
        if done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "do_execute", execute)
    begin = resume if done else start
    begin(load_resolved(text, str(folder)).search, folder, lambda progress: None)


def main(text: str, folder: Path, *steps: int) -> None:
    """One process a step, one after the other."""
    for step in steps:
        number = os.fork()
        if not number:
            go(text, folder, step)
            os._exit(0)  # it was to die
        _, status = os.waitpid(number, 0)
        print(os.waitstatus_to_exitcode(status), recorded(folder))


if __name__ == "__main__":
    main(sys.stdin.read(), Path(sys.argv[1]), *map(int, sys.argv[2:]))
