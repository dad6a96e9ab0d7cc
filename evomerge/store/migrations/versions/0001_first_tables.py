"""The first tables and views. A released migration is never edited: add the next one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_LEADERBOARD = """
CREATE VIEW leaderboard AS
SELECT
    candidates.run_id, candidates.number, candidates.kind, candidates.label,
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

_CANDIDATE_SCORES = """
CREATE VIEW candidate_scores AS
SELECT
    candidates.run_id, candidates.number, candidates.label, evaluations.split,
    task_scores.task, task_scores.score, task_scores.examples
FROM candidates
JOIN runs ON runs.id = candidates.run_id
JOIN evaluations
    ON evaluations.recipe_digest = candidates.recipe_digest
    AND evaluations.fitness_digest = runs.fitness_digest
    AND evaluations.settings_digest = runs.settings_digest
JOIN task_scores ON task_scores.evaluation_id = evaluations.id
ORDER BY candidates.run_id, candidates.number, evaluations.split DESC, task_scores.position
"""


def upgrade() -> None:
    """Make everything, in an empty database."""
    _create_run_tables()
    _create_evaluation_tables()
    op.execute(_LEADERBOARD)
    op.execute(_CANDIDATE_SCORES)


def _create_run_tables() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("search_yaml", sa.Text, nullable=False),
        sa.Column("seed", sa.BigInteger, nullable=False),
        sa.Column("fitness_digest", sa.Text, nullable=False),
        sa.Column("settings_digest", sa.Text, nullable=False),
        sa.Column("versions", sa.Text, nullable=False),
        sa.Column("sources_fingerprints", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("created_utc", sa.Text, nullable=False),
        sa.Column("finished_utc", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
    )
    op.create_table(
        "recipes",
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("json", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_recipes"),
    )
    op.create_table(
        "candidates",
        sa.Column("run_id", sa.Integer, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("genes", sa.Text, nullable=False),
        sa.Column("recipe_digest", sa.Text, nullable=False),
        sa.Column("created_utc", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "number", name="pk_candidates"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_candidates_run_id"),
        sa.ForeignKeyConstraint(
            ["recipe_digest"], ["recipes.digest"], name="fk_candidates_recipe_digest"
        ),
        sa.CheckConstraint(
            "kind IN ('baseline', 'search', 'mean')", name=op.f("ck_candidates_kind")
        ),
    )
    op.create_index("ix_candidates_recipe_digest", "candidates", ["recipe_digest"])
    op.create_table(
        "parents",
        sa.Column("run_id", sa.Integer, nullable=False),
        sa.Column("child", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("parent", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "child", "position", name="pk_parents"),
        _candidate_key("parents", "child"),
        _candidate_key("parents", "parent"),
    )
    op.create_index("ix_parents_run_id_parent", "parents", ["run_id", "parent"])
    op.create_table(
        "events",
        sa.Column("run_id", sa.Integer, nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("candidate", sa.Integer, nullable=False),
        sa.Column("elapsed_seconds", sa.Double, nullable=False),
        sa.Column("created_utc", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "sequence", name="pk_events"),
        _candidate_key("events", "candidate"),
        sa.UniqueConstraint("run_id", "candidate", "kind", name="uq_events"),
        sa.CheckConstraint("kind IN ('ask', 'tell')", name=op.f("ck_events_kind")),
    )


def _create_evaluation_tables() -> None:
    op.create_table(
        "evaluations",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("recipe_digest", sa.Text, nullable=False),
        sa.Column("fitness_digest", sa.Text, nullable=False),
        sa.Column("split", sa.Text, nullable=False),
        sa.Column("settings_digest", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("value", sa.Double),
        sa.Column("error", sa.Text),
        sa.Column("merge_seconds", sa.Double, nullable=False),
        sa.Column("score_seconds", sa.Double, nullable=False),
        sa.Column("created_utc", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_evaluations"),
        sa.ForeignKeyConstraint(
            ["recipe_digest"], ["recipes.digest"], name="fk_evaluations_recipe_digest"
        ),
        sa.UniqueConstraint(
            "recipe_digest", "fitness_digest", "split", "settings_digest", name="uq_evaluations"
        ),
        sa.CheckConstraint("split IN ('search', 'held_out')", name=op.f("ck_evaluations_split")),
        sa.CheckConstraint("status IN ('done', 'failed')", name=op.f("ck_evaluations_status")),
    )
    op.create_table(
        "task_scores",
        sa.Column("evaluation_id", sa.Integer, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("examples", sa.Integer, nullable=False),
        sa.Column("doc_ids", sa.Text, nullable=False),
        sa.Column("example_scores", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("evaluation_id", "task", name="pk_task_scores"),
        sa.ForeignKeyConstraint(
            ["evaluation_id"], ["evaluations.id"], name="fk_task_scores_evaluation_id"
        ),
    )


def _candidate_key(table: str, column: str) -> sa.ForeignKeyConstraint:
    """The column holds the number of a candidate of the same run."""
    return sa.ForeignKeyConstraint(
        ["run_id", column],
        ["candidates.run_id", "candidates.number"],
        name=f"fk_{table}_run_id_{column}",
    )
