"""What was found out about recipes that were asked some of the search examples."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_INSERTED = """
CREATE TRIGGER portions_inserted AFTER INSERT ON portions BEGIN
    UPDATE checksums SET rows = rows + 1, sum = (sum + new.checksum) & 0xFFFFFFFFFFFFFF
    WHERE table_name = 'portions';
END
"""
_CELLS = """
CREATE VIEW cells AS
SELECT portions.recipe_digest, task.key AS task, CAST(cell.key AS INTEGER) AS doc_id,
    cell.value AS score
FROM portions, json_each(portions.scores) AS task, json_each(task.value) AS cell
UNION
SELECT evaluations.recipe_digest, task_scores.task, ids.value, scores.value
FROM evaluations JOIN task_scores ON task_scores.evaluation_id = evaluations.id,
    json_each(task_scores.doc_ids) AS ids, json_each(task_scores.example_scores) AS scores
WHERE evaluations.split = 'search' AND ids.key = scores.key
"""


def upgrade() -> None:
    """Add a table, and a view with the score of every recipe on every example it was asked."""
    op.create_table(
        "portions",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("run_id", sa.Integer, nullable=False),
        sa.Column("recipe_digest", sa.Text, nullable=False),
        sa.Column("examples", sa.Integer, nullable=False),
        sa.Column("scores", sa.Text, nullable=False),
        sa.Column("merge_seconds", sa.Double, nullable=False),
        sa.Column("score_seconds", sa.Double, nullable=False),
        sa.Column("generation_seconds", sa.Double, nullable=False),
        sa.Column("generated_tokens", sa.BigInteger, nullable=False),
        sa.Column("worker", sa.Text),
        sa.Column("elapsed_seconds", sa.Double, nullable=False),
        sa.Column("created_utc", sa.Text, nullable=False),
        sa.Column("checksum", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_portions"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_portions_run_id"),
        sa.ForeignKeyConstraint(
            ["recipe_digest"], ["recipes.digest"], name="fk_portions_recipe_digest"
        ),
    )
    op.create_index("ix_portions_recipe_digest", "portions", ["recipe_digest"])
    op.execute(_INSERTED)
    op.execute(_CELLS)
