"""SQLite: the file and where it lies, its settings, its migrations and its errors."""

from __future__ import annotations

import os
import shlex
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import (
    Connection,
    Engine,
    ExceptionContext,
    QueuePool,
    create_engine,
    event,
    inspect,
    text,
)
from sqlalchemy.exc import SQLAlchemyError

from evomerge.errors import StoreError
from evomerge.files import require_regular
from evomerge.store import checksums
from evomerge.store.file_systems import is_local
from evomerge.store.log_frames import unread_commits
from evomerge.store.schema import HEAD

if TYPE_CHECKING:
    from alembic.config import Config

State = tuple[int, int, int]  # inode, bytes and modification time of a file
BUSY_SECONDS = 30.0
CACHE_KIB = 65536
# How SQLite waits for the disk: without a log, and with one, which the syncer brings to the disk.
SYNCHRONOUS, SYNCHRONOUS_WITH_LOG = "FULL", "NORMAL"

_CURES = {
    "is locked": " Another program holds it open: close that program, then resume the run.",
    "is full": " Make room, then resume the run: all that was recorded before is safe.",
    "disk I/O error": " Check the disk, then resume the run.",
    "Input/output error": " Check the disk, then resume the run.",
    "No space left": " Make room, then resume the run.",
    "no such table": " Restore it from a copy, or start the run again in another folder.",
    "no such column": " Restore it from a copy, or start the run again in another folder.",
    "not a database": " Restore it from a copy, or start the run again in another folder.",
    "malformed": " Restore it from a copy, or start the run again in another folder.",
}


@contextmanager
def database_errors(where: Path) -> Iterator[None]:
    """Turn the errors of a database and its disk into a `StoreError` with cause and cure."""
    try:
        yield
    # ValueError: JSON or text that no database takes, or a damaged cell
    except (SQLAlchemyError, sqlite3.Error, OSError, ValueError, OverflowError) as error:
        cause = str(getattr(error, "orig", None) or error)
        cure = next((cure for sign, cure in _CURES.items() if sign in cause), "")
        raise StoreError(f"{where}: {cause}.{cure}") from error


def open_file(path: Path, *, read_only: bool, create: bool = False) -> sqlite3.Connection:
    """A plain `sqlite3` connection to a file; see `connect`."""
    # A reader opens for writing too: only so can it roll back what a killed writer left half done,
    # and fold the log that it left.
    for file in (path, *beside(path)):
        with suppress(FileNotFoundError):
            require_regular(file)
    uri = f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}"
    connection = sqlite3.connect(
        uri,
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,  # the driver begins nothing by itself: _begin does
        check_same_thread=False,  # the pool hands it to one thread at a time
    )
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA trusted_schema = OFF")  # a run folder may come from a stranger
        connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS}")
        if not is_local(path.parent):
            _without_log(connection)
        # The default of 2 MB is less than the indexes of 10,000 candidates.
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute(f"PRAGMA query_only = {'ON' if read_only else 'OFF'}")
    except BaseException:
        connection.close()  # what the error holds would keep its locks, too
        raise
    return connection


def connect(path: Path, *, read_only: bool, create: bool = False) -> Engine:
    """An engine on one SQLite file.

    Args:
        read_only: refuse to change what was recorded.
        create: make the file if there is none.
    """
    engine = create_engine(
        "sqlite://",
        creator=lambda: open_file(path, read_only=read_only, create=create),
        poolclass=QueuePool,
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A writer that began as a reader could not wait for its turn: SQLite refuses to upgrade.
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    @event.listens_for(engine, "handle_error")
    def _stay_connected(context: ExceptionContext) -> None:
        # Python hears a Ctrl-C between two calls of SQLite, never within one, so that the
        # transaction is sound; SQLAlchemy would drop the connection, and all of it.
        if isinstance(context.original_exception, KeyboardInterrupt):
            context.is_disconnect = False

    return engine


@contextmanager
def raw(engine: Engine) -> Iterator[sqlite3.Connection]:
    """The driver's own connection, outside of a transaction."""
    pooled = engine.raw_connection()
    try:
        assert isinstance(pooled.driver_connection, sqlite3.Connection)
        yield pooled.driver_connection
    finally:
        pooled.close()


def _without_log(connection: sqlite3.Connection) -> None:
    """Fold the log of a run that began on a local disk, if this one did.

    A log needs memory that is shared by all who open the file, and machines share none. A process
    that is alone with the file can do without.
    """
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("PRAGMA locking_mode = NORMAL")
    connection.execute("SELECT 1 FROM sqlite_master").fetchall()  # lets go of the lock


def create_file(path: Path, fill: Callable[[Connection], None]) -> None:
    """Make a database at the newest schema: all of it, filled, or none.

    The caller holds the folder's lock and has seen that there is no file.
    """
    new = path.with_name(f"{path.name}.new")
    # A journal or log that outlived its database would be taken for this one's.
    for stale in (new, *beside(new), *beside(path)):
        stale.unlink(missing_ok=True)
    engine = connect(new, read_only=False, create=True)
    try:
        migrate(engine)
        with engine.begin() as connection:
            fill(connection)
    finally:
        engine.dispose()
    new.replace(path)
    if os.name != "nt":
        sync(path.parent)


def beside(path: Path) -> list[Path]:
    """The files that SQLite keeps beside a database, and that a kill leaves there."""
    return [Path(f"{path}-{name}") for name in ("journal", "wal", "shm")]


def is_older(engine: Engine) -> bool:
    """Whether an existing database has an older schema than this version's."""
    revision = _revision(engine)
    return revision not in (None, HEAD) and revision in _known_revisions()


def prepare(engine: Engine, path: Path) -> None:
    """Bring an existing database to the newest schema, once it is known to be whole.

    Raises:
        StoreError: it is no run's database, is damaged, or has a schema that this version does not
            know.
    """
    refuse(differences(engine, path), path)
    migrate(engine)


def differences(engine: Engine, path: Path) -> list[str]:
    """What differs from what was recorded, where the database's version has checksums.

    Raises:
        StoreError: it is no run's database, or has a schema that this version does not know.
    """
    revision = _revision(engine)
    if revision is None:
        raise StoreError(f"{path}: is a database, but not of an evomerge run.")
    if revision != HEAD and revision not in _known_revisions():
        raise StoreError(
            f"{path}: was written by a newer evomerge (schema {revision}, this version knows "
            f"up to {HEAD}). Upgrade evomerge."
        )
    older = revision != HEAD
    with engine.begin() as connection:
        if older and not checksums.are_kept(connection):
            return []
        return list(checksums.problems(connection, older=older))


def migrate(engine: Engine) -> None:
    """Run the missing migrations, all in one transaction; their rows are taken as they are."""
    if _revision(engine) == HEAD:
        return

    from alembic import command  # slow to import, and seldom needed

    with engine.begin() as connection:
        config = migrations()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        checksums.renew(connection)


def damage_of_log(path: Path) -> list[str]:
    """What the disk has lost of the log; to be asked before the database is opened, which folds it.

    Returns:
        A sentence, or nothing.
    """
    lost = unread_commits(path)
    return [f"{path.name}-wal: is damaged, its last {lost} records cannot be read."] * bool(lost)


def refuse(differences: list[str], path: Path) -> None:
    """Raise for what differs from what was recorded, if anything does.

    Raises:
        StoreError: names the first, and says what to do.
    """
    if differences:
        more = f" And {len(differences) - 1} more differences." if len(differences) > 1 else ""
        lost = checksums.beyond_repair(differences)
        accepting = "" if lost else "; with --accept, it is taken as it is"
        raise StoreError(
            f"{path}: {differences[0]}{more} Restore it from a copy, or start the run again in "
            f"another folder. `evomerge check {shlex.quote(str(path.parent))}` lists all that "
            f"differs from what was recorded{accepting}."
        )


def migrations() -> Config:
    """Where Alembic finds the migrations; it reads no file and configures no logging."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "evomerge.store:migrations")
    return config


def _revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _known_revisions() -> list[str]:
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(migrations())
    return [script.revision for script in scripts.walk_revisions()]


def state(file: Path) -> State | None:
    """A value that changes whenever the file is written to; None where there is no file."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def sync(path: Path) -> None:
    """Bring what is in a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
