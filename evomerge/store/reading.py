"""Reading a run in a folder in which one may not write."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from evomerge.errors import StoreError
from evomerge.store import database

_TRIES = 8


def readable(path: Path, resources: ExitStack) -> Path:
    """The database, or a copy of it where it cannot be read without writing beside it.

    Args:
        resources: at whose end the copy is removed.

    Raises:
        OSError: it may not be read, or there is no room for a copy.
        StoreError: it changes whenever it is copied.
    """
    for _ in range(_TRIES):
        if _can_be_read(path):
            return path
        files = (path, *database.beside(path)[:2])
        before = [_state(file) for file in files]
        with ExitStack() as copy:
            folder = Path(copy.enter_context(TemporaryDirectory(prefix="evomerge-")))
            for file in files:
                with suppress(FileNotFoundError):
                    shutil.copyfile(file, folder / file.name)
            # whoever resumes the run meanwhile moves its log into it, of which half was copied
            if [_state(file) for file in files] == before:
                resources.push(copy.pop_all())
                return folder / path.name
    raise StoreError(f"{path}: changes while it is copied. Try again when it is at rest.")


def _can_be_read(path: Path) -> bool:
    """Whether SQLite has nothing to write first."""
    engine = database.connect(path, read_only=True)
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1 FROM sqlite_master"))
    except DBAPIError as error:
        if not _wants_to_write(error, path):
            raise
        return False
    finally:
        engine.dispose()
    return True


def _state(file: Path) -> tuple[int, int, int] | None:
    """Another whenever the file was written to; None without one."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _wants_to_write(error: DBAPIError, path: Path) -> bool:
    """Whether SQLite failed because it may not write."""
    code = getattr(error.orig, "sqlite_errorcode", 0)
    if code == sqlite3.SQLITE_IOERR_LOCK:  # of a file to be locked for oneself
        return not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
    # it could not undo what a killed writer left half done, or not open its log
    return code & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
