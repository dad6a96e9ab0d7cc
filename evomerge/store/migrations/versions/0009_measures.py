"""What was measured of a model besides its scores: its layers and the like."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_INSERTED = """
CREATE TRIGGER measures_inserted AFTER INSERT ON measures BEGIN
    UPDATE checksums SET rows = rows + 1, sum = (sum + new.checksum) & 0xFFFFFFFFFFFFFF
    WHERE table_name = 'measures';
END
"""


def upgrade() -> None:
    """Add a table."""
    op.create_table(
        "measures",
        sa.Column("evaluation_id", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("checksum", sa.BigInteger),
        sa.PrimaryKeyConstraint("evaluation_id", "name", name="pk_measures"),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluations.id"], name="fk_measures_evaluation_id"
        ),
    )
    op.execute(_INSERTED)
