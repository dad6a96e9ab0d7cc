"""Reading a run in a folder in which one may not write."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from evomerge.store import database


def readable(path: Path, resources: ExitStack) -> Path:
    """The database, or a copy of it where it cannot be read without writing beside it.

    Args:
        resources: at whose end the copy is removed.

    Raises:
        OSError: it may not be read, or there is no room for a copy.
    """
    engine = database.connect(path, read_only=True)
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1 FROM sqlite_master"))
    except DBAPIError as error:
        if not _wants_to_write(error, path):
            raise
    else:
        return path
    finally:
        engine.dispose()
    folder = resources.enter_context(TemporaryDirectory(prefix="evomerge-"))
    for file in (path, *database.beside(path)[:2]):
        if file.exists():
            shutil.copyfile(file, Path(folder) / file.name)
    return Path(folder) / path.name


def _wants_to_write(error: DBAPIError, path: Path) -> bool:
    """Whether SQLite failed because it may not write."""
    code = getattr(error.orig, "sqlite_errorcode", 0)
    if code == sqlite3.SQLITE_IOERR_LOCK:  # of a file to be locked for oneself
        return not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
    # it could not undo what a killed writer left half done, or not open its log
    return code & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
