"""What a baseline is, which was the beginning of its label."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

# labels of 0.2.2: base, source: NAME, uniform average, textbook OPERATOR [on NAME + NAME]
_ROLES = """
UPDATE candidates
SET role = CASE
    WHEN label = 'base' THEN 'base'
    WHEN label LIKE 'source: %' THEN 'source'
    WHEN label = 'uniform average' THEN 'average'
    ELSE 'paper_defaults'
END
WHERE kind = 'baseline'
"""


def upgrade() -> None:
    """Add a column to the candidates, and fill it from the labels."""
    op.add_column("candidates", sa.Column("role", sa.Text))
    op.execute(_ROLES)
