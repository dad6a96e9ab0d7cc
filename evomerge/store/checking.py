"""Whether a run is as it was recorded, and taking it as it is."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from evomerge.store import checksums, database
from evomerge.store.lock import WriterLock
from evomerge.store.reading import readable
from evomerge.store.store import Store


def differences(folder: Path) -> list[str]:
    """What differs from what was recorded, each a sentence that names table and row.

    Raises:
        RunError: the folder has no run.
        StoreError: its file cannot be read at all, or is no run's.
    """
    path = Store.existing(folder)
    with ExitStack() as resources, database.database_errors(path):
        if found := database.damage_of_log(path):
            return found  # whoever opens the file loses what is behind the damage
        engine = database.connect(readable(path, resources), read_only=True)
        resources.callback(engine.dispose)
        return database.differences(engine, path)


def accept(folder: Path) -> None:
    """Take all rows as they are, for whoever has changed some or can do without the damaged ones.

    The table of checksums is made anew where it is lost.

    Raises:
        RunError: the folder has no run, or is in use by another process.
        StoreError: its file cannot be read at all, or has lost a table or column of records.
    """
    path = Store.existing(folder)
    with ExitStack() as resources, database.database_errors(path):
        resources.callback(WriterLock(folder).release)
        engine = database.connect(path, read_only=False)
        resources.callback(engine.dispose)
        database.refuse(checksums.beyond_repair(database.differences(engine, path)), path)
        database.migrate(engine)
        with engine.begin() as connection:
            checksums.ensure_table(connection)
            connection.exec_driver_sql("REINDEX")  # indexes follow from the rows
            checksums.renew(connection)
