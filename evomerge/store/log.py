"""The write-ahead log, by which transactions do not wait for the disk and lose little.

A commit appends to the log, which is moved into the database some MiB at a time. Unlike a rollback
journal it need not be on disk to keep the database whole: a power cut takes back the last commits,
never parts of them. A kill takes back none: the operating system has what was written.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

from sqlalchemy import Engine

from evomerge.store import database
from evomerge.store.database import State

# At this length whoever commits moves the log, for the thread that does so cannot catch up.
MOST_PAGES = 65536
PATIENCE_SECONDS = 1.0
SYNC_SECONDS = 1.0  # a power cut takes back no more, and what the disk itself needs
# A shorter log is not moved into its database: a page that many commits change is moved once.
MOVE_BYTES = 2**24


class WriteAheadLog:
    """The log of a store that writes; where none is wanted, it does nothing.

    It is begun with the first record and folded into the database at the end, so that a run that
    nobody writes to is one plain file. It is called from one thread, outside of transactions.
    """

    def __init__(self, engine: Engine, path: Path, *, wanted: bool) -> None:
        self._engine = engine
        self._wanted = wanted
        self._syncer = Syncer(path)
        self._begun = False

    @property
    def moves(self) -> bool:
        """Whether it is being moved into the database, which changes that meanwhile."""
        return self._syncer.moves

    @property
    def moved(self) -> State | None:
        """The state of the database when it was last moved; None before."""
        return self._syncer.moved

    def begin(self) -> None:
        """Commit to the log from here on; where there is none, SQLite keeps its journal."""
        if self._begun or not self._wanted:
            return
        with database.raw(self._engine) as connection:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode == "wal":
                connection.execute(f"PRAGMA synchronous = {database.SYNCHRONOUS_WITH_LOG}")
                connection.execute(f"PRAGMA wal_autocheckpoint = {MOST_PAGES}")
                # its size says how much is in it
                connection.execute("PRAGMA journal_size_limit = 0")
                # what is not in the log is in memory from here on, as far as it fits: `FileWatch`
                connection.execute("PRAGMA quick_check").fetchall()
                self._syncer.start()
        self._begun = True

    def committed(self) -> None:
        """Ask for what was committed to be brought to the disk, without waiting for it.

        Raises:
            OSError, sqlite3.Error: an earlier commit could not be.
        """
        self._syncer.wake()

    def abandon(self) -> None:
        """Do no more with it: its database is no longer there."""
        self._wanted = False
        self._syncer.stop()

    def end(self) -> None:
        """Fold the log into the database and remove it.

        Where a reader holds on to it, or there is no room, it stays, complete and on disk.

        Raises:
            OSError, sqlite3.Error: it stays, and could not be brought to the disk.
        """
        if not self._wanted:
            return
        self._syncer.stop()
        self._engine.dispose()  # the last to close it folds it, without waiting for readers
        if not _folded(self._engine):
            self._syncer.sync()


def _folded(engine: Engine) -> bool:
    """Whether the database has a rollback journal again, and all that was in the log."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with database.raw(engine) as connection:
                mode = connection.execute("PRAGMA journal_mode = DELETE").fetchone()
                return bool(mode == ("delete",))
        except sqlite3.Error as error:  # here SQLite does not wait for others by itself
            if "is locked" not in str(error) or time.monotonic() > deadline:
                return False
            time.sleep(0.02)


class Syncer:
    """The thread that waits for the disk, so that the search does not.

    It brings a database's log to the disk: at once, then at most every `SYNC_SECONDS`.

    It also moves a long log into the database. Others go on committing meanwhile: they append.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._log = path, Path(f"{path}-wal")
        self._dirty, self._ended = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self.moves = False  # see `WriteAheadLog`
        self.moved: State | None = None

    def start(self) -> None:
        """Begin to wait for `wake`."""
        self._thread = threading.Thread(target=self._run, name="sync a run", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Note that something was committed; raises where earlier commits missed the disk."""
        self._raise_error()
        self._dirty.set()

    def stop(self) -> None:
        """End the thread, once it has done what it is doing."""
        self._ended.set()
        self._dirty.set()
        if self._thread is not None:
            self._thread.join()

    def sync(self) -> None:
        """Bring the log to the disk now; raises where that, or an earlier time, fails."""
        self._raise_error()
        with suppress(FileNotFoundError):  # it is in the database, for which SQLite waited
            database.sync(self._log)

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
                    with suppress(FileNotFoundError):  # that it is gone, `FileWatch` says
                        if self._log.stat().st_size >= MOVE_BYTES:
                            self._move(connection)
                    self._ended.wait(SYNC_SECONDS)
        except Exception as error:  # of the disk, or that memory has run out
            self._error = error

    def _move(self, connection: sqlite3.Connection) -> None:
        self.moves = True
        try:
            _move(connection)
            self.moved = database.state(self._path)
        finally:
            self.moves = False


def _move(connection: sqlite3.Connection) -> None:
    """Move what no reader needs in the log any more into the database, if there is room."""
    try:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    except sqlite3.OperationalError as error:
        if "is full" not in str(error):
            raise
        # all of it is in the log, and stays there
