"""Checksums of rows. Those of older runs are made when the migrations have run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_TABLES = (
    *("runs", "recipes", "candidates", "parents"),
    *("evaluations", "task_scores", "events", "grams"),
)
_INSERTED = """
CREATE TRIGGER {table}_inserted AFTER INSERT ON {table} BEGIN
    UPDATE checksums SET rows = rows + 1, sum = (sum + new.checksum) & 0xFFFFFFFFFFFFFF
    WHERE table_name = '{table}';
END
"""
_UPDATED = """
CREATE TRIGGER runs_updated AFTER UPDATE OF checksum ON runs BEGIN
    UPDATE checksums SET sum = (sum + new.checksum - old.checksum) & 0xFFFFFFFFFFFFFF
    WHERE table_name = 'runs';
END
"""


def upgrade() -> None:
    """Add a column to every table, and a table with the sum of each."""
    op.create_table(
        "checksums",
        sa.Column("table_name", sa.Text, nullable=False),
        sa.Column("rows", sa.Integer, nullable=False),
        sa.Column("sum", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("table_name", name="pk_checksums"),
    )
    for table in _TABLES:
        op.add_column(table, sa.Column("checksum", sa.BigInteger))
        op.execute(_INSERTED.format(table=table))
    op.execute(_UPDATED)
