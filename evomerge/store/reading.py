"""Reading a run whose file one may not write, or should not: it is of an older version."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from evomerge.errors import StoreError
from evomerge.store import database

_TRIES = 8


def readable(path: Path, resources: ExitStack) -> Path:
    """The database, or a copy of it where it cannot be read without writing.

    SQLite may have to undo what a killed writer left half done, and a file of an older version
    needs the newest schema; that version can go on reading the original.

    Args:
        resources: at whose end the copy is removed.

    Raises:
        OSError: it may not be read, or there is no room for a copy.
        StoreError: it changes whenever it is copied, or is of a newer evomerge.
    """
    for _ in range(_TRIES):
        if _can_be_read(path):
            return path
        files = (path, *database.beside(path)[:2])
        before = [database.state(file) for file in files]
        with ExitStack() as copy:
            folder = Path(copy.enter_context(TemporaryDirectory(prefix="evomerge-")))
            for file in files:
                with suppress(FileNotFoundError):
                    shutil.copyfile(file, folder / file.name)
            # whoever resumes the run meanwhile moves its log into it, of which half was copied
            if [database.state(file) for file in files] == before:
                with _engine(folder / path.name, read_only=False) as engine:
                    database.prepare(engine, path)
                resources.push(copy.pop_all())
                return folder / path.name
    raise StoreError(f"{path}: changes while it is copied. Try again when nothing writes to it.")


def _can_be_read(path: Path) -> bool:
    try:
        with _engine(path, read_only=True) as engine:
            return not database.is_older(engine)
    except DBAPIError as error:
        if not _wants_to_write(error, path):
            raise
        return False


@contextmanager
def _engine(path: Path, *, read_only: bool) -> Iterator[Engine]:
    engine = database.connect(path, read_only=read_only)
    try:
        yield engine
    finally:
        engine.dispose()


def _wants_to_write(error: DBAPIError, path: Path) -> bool:
    code = getattr(error.orig, "sqlite_errorcode", 0)
    if code == sqlite3.SQLITE_IOERR_LOCK:  # of a file to be locked for oneself
        return not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
    # it could not undo what a killed writer left half done, or not open its log
    return code & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
