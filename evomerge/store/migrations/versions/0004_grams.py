"""Inner products of the sources, measured to cross them. Older runs measure them again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add a table."""
    op.create_table(
        "grams",
        sa.Column("run_id", sa.Integer, nullable=False),
        sa.Column("of", sa.Text, nullable=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("products", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "of", "position", name="pk_grams"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_grams_run_id"),
    )
