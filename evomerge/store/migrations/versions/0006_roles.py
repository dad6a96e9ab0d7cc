"""The role of a baseline, which older runs only have as the beginning of its label."""

from __future__ import annotations

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

_COLUMN = """
ALTER TABLE candidates ADD COLUMN role TEXT
CONSTRAINT ck_candidates_role CHECK (role IN ('base', 'source', 'average', 'paper_defaults'))
"""
_LEADERBOARD = """
CREATE VIEW leaderboard AS
SELECT
    candidates.run_id, candidates.number, candidates.kind, candidates.label, candidates.role,
    candidates.stage,
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
    """Add a column to the candidates, fill it from the labels, and show it on the leaderboard."""
    op.execute(_COLUMN)
    op.execute(_ROLES)
    op.execute("DROP VIEW leaderboard")
    op.execute(_LEADERBOARD)
