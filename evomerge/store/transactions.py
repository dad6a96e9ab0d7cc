"""Transactions of a store, one for each record or one for several."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from evomerge.store import database
from evomerge.store.log import WriteAheadLog
from evomerge.store.watch import FileWatch


class Transactions:
    """The transactions of a store.

    Args:
        where: the file that errors name.
    """

    def __init__(self, engine: Engine, log: WriteAheadLog, where: Path) -> None:
        self._engine, self._log, self._where = engine, log, where
        self._watch = FileWatch(engine, log, where)
        self._grouping = False
        self._group: Connection | None = None  # once something is recorded in it

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make one transaction of all that are begun within."""
        assert not self._grouping, "a group within a group"
        self._grouping = True
        try:
            yield
        finally:
            self._grouping = False
            group, self._group = self._group, None
            if group is not None:
                with database.database_errors(self._where):
                    with group:
                        self._watch.recorded(group)
                        group.commit()
                    self._committed()

    @contextmanager
    def begin(self, *, records: bool = False) -> Iterator[Connection]:
        """A transaction, or a part of the one of `together`, which is undone alone if it fails.

        Args:
            records: whether it writes.
        """
        with database.database_errors(self._where):
            if self._grouping:
                with self._part_of_group() as connection:
                    yield connection
                return
            if records:
                self._prepare()
            with self._engine.begin() as connection:
                yield connection
                if records:
                    self._watch.recorded(connection)
            if records:
                self._committed()

    def end(self) -> None:
        """Look for the files a last time; see `FileWatch.look`."""
        self._watch.end()

    def _prepare(self) -> None:
        self._watch.look()
        self._log.begin()

    def _committed(self) -> None:
        self._watch.committed()
        self._log.committed()

    @contextmanager
    def _part_of_group(self) -> Iterator[Connection]:
        if self._group is None:
            self._prepare()
            self._group = self._engine.connect()
        group, whole = self._group, False
        # SQLAlchemy's own savepoints take longer than all that a record does
        group.exec_driver_sql("SAVEPOINT record")
        try:
            yield group
            whole = True
            group.exec_driver_sql("RELEASE record")
        except BaseException:
            if not whole:
                self._undo(group)
            raise

    def _undo(self, group: Connection) -> None:
        """Take back a record that is half done, and keep the rest of the group."""
        try:
            group.exec_driver_sql("ROLLBACK TO record")
            group.exec_driver_sql("RELEASE record")
        except SQLAlchemyError:
            # SQLite has undone the whole group already, or cannot say what is left of it
            group.close()
            self._group = None
