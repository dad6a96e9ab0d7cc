"""Which stage of a search a candidate belongs to. Older searches have only one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_LEADERBOARD = """
CREATE VIEW leaderboard AS
SELECT
    candidates.run_id, candidates.number, candidates.kind, candidates.label, candidates.stage,
    searched.status, searched.value, held_out.value AS held_out_value,
    searched.merge_seconds, searched.score_seconds, searched.error,
    candidates.genes, candidates.recipe_digest, candidates.created_utc
FROM candidates
JOIN runs ON runs.id = candidates.run_id
LEFT JOIN evaluations AS searched
    ON searched.recipe_digest = candidates.recipe_digest
    AND searched.fitness_digest = runs.fitness_digest
    AND searched.split = 'search'
    AND searched.settings_digest = runs.settings_digest
LEFT JOIN evaluations AS held_out
    ON held_out.recipe_digest = candidates.recipe_digest
    AND held_out.fitness_digest = runs.fitness_digest
    AND held_out.split = 'held_out'
    AND held_out.settings_digest = runs.settings_digest
ORDER BY candidates.run_id, searched.value IS NULL, searched.value DESC, candidates.number
"""


def upgrade() -> None:
    """Add a column to the candidates, and to the leaderboard."""
    op.add_column(
        "candidates", sa.Column("stage", sa.Text, nullable=False, server_default=sa.text("''"))
    )
    op.execute("DROP VIEW leaderboard")
    op.execute(_LEADERBOARD)
