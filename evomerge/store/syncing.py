"""The thread that waits for the disk, so that the search does not."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

from evomerge.store import database

SYNC_SECONDS = 1.0  # a power cut takes back no more, and what the disk itself needs
# A shorter log is not moved into its database: a page that many commits change is moved once.
MOVE_BYTES = 2**24


class Syncer:
    """Brings a database's log to the disk: at once, then at most every `SYNC_SECONDS`.

    It also moves a long log into the database. Others go on committing meanwhile: they append.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._log = path, Path(f"{path}-wal")
        self._dirty, self._ended = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._error: OSError | sqlite3.Error | None = None

    def start(self) -> None:
        """Begin to wait for `wake`."""
        self._thread = threading.Thread(target=self._run, name="sync a run", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Something was committed.

        Raises:
            OSError, sqlite3.Error: what was committed before did not reach the disk.
        """
        self._raise_error()
        self._dirty.set()

    def stop(self) -> None:
        """Wait for what it is doing, and end it."""
        self._ended.set()
        self._dirty.set()
        if self._thread is not None:
            self._thread.join()

    def sync(self) -> None:
        """Bring the log to the disk now.

        Raises:
            OSError, sqlite3.Error: the disk does not take it, or did not take what came before.
        """
        self._raise_error()
        try:
            descriptor = os.open(self._log, os.O_RDONLY)
        except FileNotFoundError:
            return  # it is in the database, for which SQLite waited
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _raise_error(self) -> None:
        if self._error is not None:
            # for good: the system reports it once, and may have dropped what it could not write
            raise self._error

    def _run(self) -> None:
        try:
            with closing(database.open_file(self._path, read_only=False)) as connection:
                while self._dirty.wait() and not self._ended.is_set():
                    self._dirty.clear()
                    self.sync()
                    if self._log.stat().st_size >= MOVE_BYTES:
                        _move(connection)
                    self._ended.wait(SYNC_SECONDS)
        except (OSError, sqlite3.Error) as error:
            self._error = error


def _move(connection: sqlite3.Connection) -> None:
    """Move what no reader needs in the log any more into the database.

    Raises:
        sqlite3.Error: the disk does not take it, other than for lack of room.
    """
    try:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    except sqlite3.OperationalError as error:
        if "is full" not in str(error):
            raise
        # all of it is in the log, and stays there
