"""The migrations lead to the tables that the code expects."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text

from evomerge.errors import StoreError
from evomerge.store import Store, database
from evomerge.store.schema import HEAD, metadata


def test_migrating_from_nothing_gives_the_tables_of_the_code(tmp_path: Path) -> None:
    engine = database.connect(tmp_path / "new.sqlite", read_only=False, create=True)
    database.migrate(engine)
    direct = create_engine("sqlite://")
    metadata.create_all(direct)
    with engine.connect() as migrated, direct.connect() as made:
        context = MigrationContext.configure(migrated, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []
        for table in metadata.tables:  # compare_metadata looks at neither of these
            for aspect in ("get_check_constraints", "get_pk_constraint", "get_foreign_keys"):
                found = [
                    sorted(map(str, listed(inspect(c), aspect, table))) for c in (migrated, made)
                ]
                assert found[0] == found[1], (table, aspect)
    engine.dispose()
    direct.dispose()


def listed(inspector: Any, aspect: str, table: str) -> list[Any]:
    found = getattr(inspector, aspect)(table)
    return [found] if isinstance(found, dict) else found


def test_the_newest_migration_is_the_one_that_the_code_expects() -> None:
    assert ScriptDirectory.from_config(database.migrations()).get_heads() == [HEAD]


def test_migrating_twice_changes_nothing(tmp_path: Path, run: Any) -> None:
    with Store.create(tmp_path, run) as store:
        before = Store.path(tmp_path).read_bytes()
        database.migrate(store._engine)
    assert Store.path(tmp_path).read_bytes() == before


def test_migrating_leaves_logging_alone(tmp_path: Path, run: Any) -> None:
    def state() -> tuple[Any, ...]:
        loggers = [logging.getLogger(), logging.getLogger("alembic"), logging.getLogger("mine")]
        return tuple((logger.level, list(logger.handlers), logger.disabled) for logger in loggers)

    before = state()
    Store.create(tmp_path, run).close()
    assert state() == before


def set_revision(folder: Path, revision: str) -> None:
    with closing(sqlite3.connect(Store.path(folder))) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))


@pytest.mark.parametrize("read_only", [True, False])
def test_the_file_of_a_newer_evomerge_is_refused(tmp_path: Path, run: Any, read_only: bool) -> None:
    Store.create(tmp_path, run).close()
    set_revision(tmp_path, "0999")
    with pytest.raises(StoreError, match=r"newer evomerge \(schema 0999.*Upgrade evomerge"):
        Store.open(tmp_path, read_only=read_only)
    set_revision(tmp_path, HEAD)
    Store.open(tmp_path).close()  # the refusal let go of the lock


def test_evaluations_of_the_first_schema_are_kept(tmp_path: Path, run: Any) -> None:
    """A file as the first migration made it, with an evaluation in it."""
    engine = database.connect(tmp_path / "old.sqlite", read_only=False, create=True)
    config = database.migrations()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(text("INSERT INTO recipes VALUES ('d', '{}')"))
        connection.execute(
            text(
                "INSERT INTO evaluations VALUES "
                "(1, 'd', 'f', 'search', 's', 'done', 0.5, NULL, 1.0, 2.0, '2026')"
            )
        )
    database.migrate(engine)
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT * FROM evaluations")).one()
    assert tuple(kept)[4:-1] == ("s", "done", 0.5, None, 1.0, 2.0, "2026", 0.0, None, 0)
    engine.dispose()


def test_candidates_of_before_stages_are_of_none(tmp_path: Path) -> None:
    """A file as the second migration made it, with a candidate in it."""
    engine = database.connect(tmp_path / "old.sqlite", read_only=False, create=True)
    config = database.migrations()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        for row in (
            "runs VALUES (1, 'n', 'y', 0, 'f', 's', '{}', '{}', 'h', '2026', NULL)",
            "recipes VALUES ('d', '{}')",
            "candidates VALUES (1, 0, 'search', '', '{}', 'd', '2026')",
        ):
            connection.execute(text(f"INSERT INTO {row}"))
    database.migrate(engine)
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT number, kind, stage FROM candidates")).one()
        board = connection.execute(text("SELECT number, stage, status FROM leaderboard")).one()
    assert tuple(kept) == (0, "search", "")
    assert tuple(board) == (0, "", None)
    engine.dispose()


def test_baselines_of_before_have_the_roles_that_their_labels_say(tmp_path: Path) -> None:
    """A file as the fifth migration made it, with labels of 0.2.2."""
    engine = database.connect(tmp_path / "old.sqlite", read_only=False, create=True)
    config = database.migrations()
    roles = {
        "base": "base",
        "source: base": "source",
        "source: uniform average": "source",
        "uniform average": "average",
        "textbook ties": "paper_defaults",
        "textbook ties on a + b": "paper_defaults",
    }
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0005")
        connection.execute(
            text(
                "INSERT INTO runs VALUES (1, 'n', 'y', 0, 'f', 's', '{}', '{}', 'h', '2026', NULL)"
            )
        )
        connection.execute(text("INSERT INTO recipes VALUES ('d', '{}')"))
        add = text(
            "INSERT INTO candidates VALUES (1, :number, :kind, :label, '{}', 'd', '2026', '')"
        )
        for number, label in enumerate(roles):
            connection.execute(add, {"number": number, "kind": "baseline", "label": label})
        connection.execute(add, {"number": len(roles), "kind": "search", "label": ""})
    database.migrate(engine)
    with engine.connect() as connection:
        kept = connection.execute(text("SELECT role FROM candidates ORDER BY number")).scalars()
    assert list(kept) == [*roles.values(), None]
    engine.dispose()
