"""Searching from Python, as from the command line: a run from its beginning or on to its end."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import ConfigError

# what these functions need takes seconds to import, and is imported when they are called
if TYPE_CHECKING:
    from evomerge.analysis.run import Run
    from evomerge.config.compose import LoadedSearch
    from evomerge.config.trust import Trust
    from evomerge.search.spec import Observer

Pathlike = str | os.PathLike[str]


def search(
    search: Pathlike | Mapping[str, Any] | LoadedSearch,
    *,
    run: Pathlike | None = None,
    overrides: Sequence[str] = (),
    progress: Observer | None = None,
) -> Run:
    """Run a search to its end, and write its best recipe into the run's folder.

    Args:
        search: the path of its YAML, its keys, or what `evomerge.load` gives.
        run: the folder to keep the run in, which has none yet; by default ``runs/NAME``.
        overrides: ``optimizer.population_size=8`` and the like, as behind ``--set``; none of a
            search that is loaded.
        progress: called with a `Progress` whenever something has finished.

    Raises:
        ConfigError: every problem of the search that can be known before it starts.
        RunError: the folder has a run already.
        SearchError: the first candidates all failed, or nothing could be scored.
    """
    from evomerge.config.load import LoadedSearch, load
    from evomerge.search.run import start

    if isinstance(search, LoadedSearch) and overrides:
        raise ConfigError("overrides: this search is loaded already. Give them to evomerge.load.")
    loaded = search if isinstance(search, LoadedSearch) else load(search, overrides)
    folder = Path(run or Path("runs") / loaded.file.name)
    start(loaded.search, folder, progress or (lambda now: None))
    return _finished(folder)


def load_run(run: Pathlike, overrides: Sequence[str] = (), *, trust: Trust = False) -> LoadedSearch:
    """The search of a run that was stopped or killed, ready to be resumed.

    Args:
        run: its folder.
        overrides: ``executor.workers=4`` and the like: only the executor may differ.
        trust: whether to run code that the run names, such as scorers, where somebody else began
            it, or on another machine; or a function of what it would run, a line each.

    Raises:
        RunError: no run there, or one that is not trusted.
        ConfigError: a run of another version, wrong overrides, or models that are gone.
    """
    from evomerge.config.resume import stored_search, version_notes
    from evomerge.config.trust import require_trust
    from evomerge.store import Store

    folder = Path(run)
    with Store.open(folder, read_only=True) as store:  # of an older version it stays as it is
        record = store.run()
    file = stored_search(record, str(folder), overrides)
    require_trust(record, file, str(folder), trust, overrides)

    from evomerge.config.compose import compose  # seconds of imports, after what needs none
    from evomerge.config.validation import ProblemCollector

    loaded = compose(file, ProblemCollector(str(folder)))
    return replace(loaded, notes=(*loaded.notes, *version_notes(record)))


def resume(
    run: Pathlike,
    search: LoadedSearch | None = None,
    *,
    progress: Observer | None = None,
    trust: Trust = False,
) -> Run:
    """Go on with a run that was stopped or killed; nothing finished is evaluated again.

    Args:
        run: its folder.
        search: from `load_run`, perhaps with another executor.
        progress: as for `search`.
        trust: as for `load_run`, which is called where there is no ``search``.

    Raises:
        RunError: no run there, not trusted, in use by another process, or something has changed
            since it began.
        ConfigError: models that are gone.
        SearchError: as for `search`.
    """
    loaded = load_run(run, trust=trust) if search is None else search

    from evomerge.search.run import resume

    resume(loaded.search, Path(run), progress or (lambda now: None))
    return _finished(Path(run))


def _finished(folder: Path) -> Run:
    """A run that has just ended, with its results beside it."""
    from evomerge.analysis.export import write_results
    from evomerge.analysis.run import Run

    run = Run.open(folder)
    write_results(run)
    return run
