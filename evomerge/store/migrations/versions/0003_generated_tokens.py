"""How many tokens an engine generated: unknown in older evaluations, which have 0."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add a column to the evaluations."""
    op.add_column(
        "evaluations",
        sa.Column("generated_tokens", sa.BigInteger, nullable=False, server_default="0"),
    )
