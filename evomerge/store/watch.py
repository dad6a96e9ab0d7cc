"""A run's file that is removed, replaced or overwritten while the run writes to it.

SQLite would go on with the file that it has open, under no name any more, and all would be gone at
the end. What it has open is all that was recorded, so that it can be written anew.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine

from evomerge.errors import StoreError
from evomerge.store import checksums, database
from evomerge.store.log import WriteAheadLog


class FileWatch:
    """What the writer of a database knows of the files that it has open."""

    def __init__(self, engine: Engine, log: WriteAheadLog, path: Path) -> None:
        self._engine, self._log, self._path = engine, log, path
        self._files = {path: _identity(path)}  # and the log with its index, once they are there
        self._state = database.state(path)
        self._totals: list[Any] | None = None  # of what was recorded
        self._next_totals: list[Any] | None = None
        self._ended = False

    def look(self) -> None:
        """Look for the files before they are written to.

        Raises:
            StoreError: they are no longer there; says where all that was recorded is saved.
        """
        if not self._ended and (found := self._difference()) is not None:
            self._ended = True
            what, target = found
            raise StoreError(
                f"{self._path}: {what} while the run wrote to it. {self._save(target)}"
            )

    def end(self) -> None:
        """Look a last time, if anything was recorded."""
        if self._totals is not None:
            self.look()
        self._ended = True

    def recorded(self, connection: Connection) -> None:
        """Note what a transaction leaves, before it is committed."""
        self._next_totals = checksums.totals(connection)

    def committed(self) -> None:
        """Note what a commit has made of the files."""
        self._totals = self._next_totals
        log, index = database.beside(self._path)[1:]
        if log in self._files:
            return  # the commit is in there
        self._files |= {file: _identity(file) for file in (log, index) if file.exists()}
        self._state = database.state(self._path)

    def _difference(self) -> tuple[str, Path] | None:
        """What has happened to the files, and where to save the run: never over another file."""
        free = self._path.with_name(f"{self._path.name}.saved")
        now = {file: _identity(file) for file in self._files}
        if now[self._path] is None:
            return "was removed", self._path
        if now[self._path] != self._files[self._path]:
            return "was replaced by another file", free
        if now != self._files:
            return "lost the log beside it", self._path
        state = database.state(self._path)
        if state not in (self._state, self._log.moved) and not self._log.moves:
            if not self._is_whole(self._path):
                return "was overwritten", free
            self._state = state  # another program has moved the log, or compacted the file
        return None

    def _is_whole(self, path: Path) -> bool:
        """Whether a file is what this run has recorded, for whoever opens it now."""
        engine = database.connect(path, read_only=True)
        try:
            with database.database_errors(path), engine.begin() as connection:
                same = self._totals in (None, checksums.totals(connection))
                return same and not any(checksums.problems(connection))
        except StoreError:
            return False
        finally:
            engine.dispose()

    def _save(self, target: Path) -> str:
        """Write all that was recorded anew, let go of the old files, and say where it is."""
        elsewhere = Path(tempfile.gettempdir(), f"evomerge-{os.getpid()}", self._path.name)
        copy, reasons = None, []
        for final in (target, elsewhere):
            try:
                copy = self._copy(final)
                break
            except (OSError, sqlite3.Error) as error:
                reasons.append(f"{final}: {error}")
        self._let_go()
        if copy is None:
            return f"What it had recorded cannot be saved: {'; '.join(reasons)}."
        if not self._is_whole(copy):
            damaged = copy.replace(final.with_name(f"{self._path.name}.damaged"))
            return f"Not all that it had recorded can be read any more: {damaged} has the rest."
        copy.replace(final)
        database.sync(final.parent)
        if final == self._path:
            where = shlex.quote(str(self._path.parent))
            return f"All that was recorded is written anew. Go on with: evomerge resume {where}"
        return f"All that was recorded is in {final}. Put it in that place to resume the run."

    def _copy(self, final: Path) -> Path:
        """What the database that is open holds, beside the place where it belongs."""
        final.parent.mkdir(parents=True, exist_ok=True)
        copy = final.with_name(f"{final.name}.new")
        for stale in (copy, *database.beside(copy)):
            stale.unlink(missing_ok=True)
        with database.raw(self._engine) as connection, closing(sqlite3.connect(copy)) as new:
            connection.backup(new)
            new.execute("PRAGMA journal_mode = DELETE")
        database.sync(copy)
        return copy

    def _let_go(self) -> None:
        """Close the files; what lies in their place stays as it is, and no log beside it."""
        # SQLite moves the log into a file of this name as it closes, whatever has become of that
        aside = self._path.with_name(f"{self._path.name}.aside")
        with suppress(OSError):
            self._path.rename(aside)
        self._log.abandon()
        self._engine.dispose()
        for file, identity in self._files.items():
            if file != self._path and _identity(file) == identity:
                file.unlink()
        with suppress(OSError):
            aside.rename(self._path)


def _identity(file: Path) -> tuple[int, int] | None:
    """Which file it is; None where there is none."""
    try:
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino
