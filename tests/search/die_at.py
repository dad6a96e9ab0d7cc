"""Dies in a search, again and again: ``python die_at.py FOLDER STEP ... < RESOLVED_SEARCH``.

Each process begins the run or goes on with it, and dies by SIGKILL where the run would record its
STEPth event, counted from its beginning; where that is 19+0.02, by SIGPROF when it has computed for
0.02 s from there on. All are forked from this one, for which the imports are done once. Prints the
exit code of each, and how many events were recorded by then.
"""

from __future__ import annotations

import importlib
import os
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from evomerge.config.load import load
from evomerge.search.run import resume, start
from evomerge.store import Store
from evomerge.yaml_files import parse_yaml


def recorded(folder: Path) -> int:
    """How many events the run has recorded."""
    if not Store.exists(folder):
        return 0
    with sqlite3.connect(Store.path(folder), timeout=60) as base:
        return int(base.execute("SELECT count(*) FROM events").fetchone()[0])


def go(text: str, folder: Path, step: int, seconds: float) -> None:
    """Search, and die at that event or so many seconds of this process's time after it."""
    done = recorded(folder)

    def execute(cursor: Any, statement: str, parameters: Any, context: Any) -> None:
        nonlocal done
        if not statement.startswith("INSERT INTO events"):
            return
        done += 1
        if done == step and seconds:
            signal.setitimer(signal.ITIMER_PROF, seconds)
        elif done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "do_execute", execute)
    # killed before its first records are committed, a run has no events, and is there
    begin = resume if Store.exists(folder) else start
    begin(load(parse_yaml(text, str(folder))).search, folder, lambda progress: None)


def main(text: str, folder: Path, *steps: str) -> None:
    """One process a step, one after the other."""
    if "name: transformers" in text:
        importlib.import_module("lm_eval.tasks")
        importlib.import_module("lm_eval.models.huggingface")  # Transformers with it
    for step in steps:
        number = os.fork()
        if not number:
            events, _, seconds = step.partition("+")
            go(text, folder, int(events), float(seconds or 0))
            os._exit(0)  # it was to die
        _, status = os.waitpid(number, 0)
        print(os.waitstatus_to_exitcode(status), recorded(folder))


if __name__ == "__main__":
    main(sys.stdin.read(), Path(sys.argv[1]), *sys.argv[2:])
