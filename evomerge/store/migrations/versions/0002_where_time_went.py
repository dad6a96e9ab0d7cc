"""Which worker evaluated, and how long the engine took. Older evaluations have neither."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add two columns to the evaluations."""
    op.add_column(
        "evaluations",
        sa.Column("generation_seconds", sa.Double, nullable=False, server_default="0"),
    )
    op.add_column("evaluations", sa.Column("worker", sa.Text))
