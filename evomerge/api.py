"""Searching from Python, as from the command line: a run from its beginning or on to its end."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# what these functions need takes seconds to import, and is imported when they are called
if TYPE_CHECKING:
    from evomerge.analysis.run import Run
    from evomerge.config.load import Loaded
    from evomerge.search.spec import Observer

Pathlike = str | os.PathLike[str]


def search(
    search: Pathlike | Mapping[str, Any] | Loaded,
    *,
    run: Pathlike | None = None,
    overrides: Sequence[str] = (),
    progress: Observer | None = None,
) -> Run:
    """Run a search to its end, and write its best recipe into the run's folder.

    Args:
        search: the path of its YAML, its keys, or what `evomerge.load` gives.
        run: the folder to keep the run in, which has none yet; by default ``runs/NAME``.
        overrides: ``optimizer.population_size=8`` and the like, as behind ``--set``.
        progress: called with a `Progress` whenever something has finished.

    Raises:
        ConfigError: every problem of the search that can be known before it starts.
        RunError: the folder has a run already.
        SearchError: the first candidates all failed, or nothing could be scored.
    """
    from evomerge.config.load import Loaded, load
    from evomerge.search.run import start

    loaded = search if isinstance(search, Loaded) else load(search, overrides)
    folder = Path(run or Path("runs") / loaded.file.name)
    start(loaded.search, folder, progress or _ignore)
    return _finished(folder)


def load_run(run: Pathlike, overrides: Sequence[str] = ()) -> Loaded:
    """The search of a run that was stopped or killed, to go on with it.

    Args:
        run: its folder.
        overrides: ``executor.workers=4`` and the like: only the executor may differ.

    Raises:
        RunError: no run there, or one of another version.
        ConfigError: wrong overrides, or models that are gone.
    """
    from evomerge.config.resume import require_version, resumed
    from evomerge.store import Store

    folder = Path(run)
    with Store.open(folder, read_only=True) as store:  # of an older version it stays as it is
        record = store.run()
    resumed(record.search_yaml, str(folder), overrides)
    require_version(record, folder)

    from evomerge.config.load import load_resolved  # seconds of imports, after what needs none

    return load_resolved(record.search_yaml, str(folder), overrides)


def resume(run: Pathlike, search: Loaded | None = None, *, progress: Observer | None = None) -> Run:
    """Go on with a run that was stopped or killed; nothing finished is evaluated again.

    Args:
        run: its folder.
        search: from `load_run`, perhaps with another executor.
        progress: as for `search`.

    Raises:
        RunError: no run there, in use by another process, or something has changed since it began.
        ConfigError: models that are gone.
        SearchError: as for `search`.
    """
    loaded = load_run(run) if search is None else search

    from evomerge.search.run import resume

    resume(loaded.search, Path(run), progress or _ignore)
    return _finished(Path(run))


def _ignore(_: object) -> None:
    """Nobody watches the progress."""


def _finished(folder: Path) -> Run:
    """A run that has just ended, with its results beside it."""
    from evomerge.analysis.export import write_results
    from evomerge.analysis.run import Run

    run = Run.open(folder)
    write_results(run)
    return run
