"""The tables, as they are after the newest migration.

| table | one row is |
|---|---|
| `runs` | a search that was started |
| `recipes` | a merged model; its digest names it everywhere |
| `candidates` | a numbered attempt of a run: genes, and the recipe they decode to |
| `parents` | a candidate that another was made from |
| `evaluations` | what came out for a recipe, under one fitness, split and engine settings |
| `task_scores` | an evaluation's result on one task, example by example |
| `measures` | what was measured of an evaluation's model: its layers and the like |
| `portions` | what came out for a recipe that was asked some of the search examples |
| `events` | a step of the run's history; replaying them in order resumes it |
| `grams` | inner products of the sources over their first elements, which crossing them needs |
| `checksums` | how many rows a table has, and the sum of their checksums |

A candidate's evaluation is the one with its recipe and with the digests of its run, so candidates
that decode to the same recipe share it. The view `leaderboard` has that join, `candidate_scores`
has it by task, `cells` has every score of a recipe on a search example. Genes and recipes hold only
the last step of a lineage in place of the list of all: earlier ones are in the rows of the
ancestors that it names (`evomerge.store.candidates`). Times end in ``_utc`` (ISO 8601) or
``_seconds``; JSON is text; higher is better. The last column of every row is its checksum
(`evomerge.store.checksums`).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

HEAD = "0009"  # the newest file in migrations/versions

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


def _checksum() -> Column[int]:
    return Column("checksum", BigInteger)


checksums = Table(
    "checksums",
    metadata,
    Column("table_name", Text, primary_key=True),
    Column("rows", Integer, nullable=False),
    Column("sum", BigInteger, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("search_yaml", Text, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("fitness_digest", Text, nullable=False),
    Column("settings_digest", Text, nullable=False),
    Column("versions", Text, nullable=False),  # JSON: name to version
    Column("sources_fingerprints", Text, nullable=False),  # JSON: key to file to digest
    Column("host", Text, nullable=False),
    Column("created_utc", Text, nullable=False),
    Column("finished_utc", Text),
    _checksum(),
)

recipes = Table(
    "recipes",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("json", Text, nullable=False),
    _checksum(),
)

candidates = Table(
    "candidates",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("label", Text, nullable=False),
    # JSON: parameter to value, in the space's order; of a child also how and why it was made
    Column("genes", Text, nullable=False),
    Column("recipe_digest", ForeignKey("recipes.digest"), nullable=False),
    Column("created_utc", Text, nullable=False),
    # of the search; empty for a baseline, and in a search without stages
    Column("stage", Text, nullable=False, server_default=text("''")),
    # of a baseline: base, source, average or paper_defaults
    Column("role", Text),
    _checksum(),
    CheckConstraint("kind IN ('baseline', 'search', 'mean')", name="kind"),
    CheckConstraint("role IN ('base', 'source', 'average', 'paper_defaults')", name="role"),
    Index(None, "recipe_digest"),
)

parents = Table(
    "parents",
    metadata,
    Column("run_id", Integer, primary_key=True),
    Column("child", Integer, primary_key=True),
    Column("position", Integer, primary_key=True),  # 0 for the first parent
    Column("parent", Integer, nullable=False),
    _checksum(),
    ForeignKeyConstraint(["run_id", "child"], ["candidates.run_id", "candidates.number"]),
    ForeignKeyConstraint(["run_id", "parent"], ["candidates.run_id", "candidates.number"]),
    Index(None, "run_id", "parent"),
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("recipe_digest", ForeignKey("recipes.digest"), nullable=False),
    Column("fitness_digest", Text, nullable=False),
    Column("split", Text, nullable=False),
    Column("settings_digest", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("value", Double),
    Column("error", Text),
    Column("merge_seconds", Double, nullable=False),
    Column("score_seconds", Double, nullable=False),
    Column("created_utc", Text, nullable=False),
    Column("generation_seconds", Double, nullable=False, server_default="0"),
    Column("worker", Text),
    Column("generated_tokens", BigInteger, nullable=False, server_default="0"),
    _checksum(),
    UniqueConstraint("recipe_digest", "fitness_digest", "split", "settings_digest"),
    CheckConstraint("split IN ('search', 'held_out')", name="split"),
    CheckConstraint("status IN ('done', 'failed')", name="status"),
)

task_scores = Table(
    "task_scores",
    metadata,
    Column("evaluation_id", ForeignKey("evaluations.id"), primary_key=True),
    Column("task", Text, primary_key=True),
    Column("position", Integer, nullable=False),  # of the task in its evaluation
    Column("score", Double, nullable=False),
    Column("examples", Integer, nullable=False),
    Column("doc_ids", Text, nullable=False),  # JSON list
    Column("example_scores", Text, nullable=False),  # JSON list, in the order of doc_ids
    _checksum(),
)

measures = Table(
    "measures",
    metadata,
    Column("evaluation_id", ForeignKey("evaluations.id"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", Double, nullable=False),
    _checksum(),
)

portions = Table(
    "portions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("recipe_digest", ForeignKey("recipes.digest"), nullable=False),
    Column("examples", Integer, nullable=False),
    Column("scores", Text, nullable=False),  # JSON: task to example to score
    Column("merge_seconds", Double, nullable=False),
    Column("score_seconds", Double, nullable=False),
    Column("generation_seconds", Double, nullable=False),
    Column("generated_tokens", BigInteger, nullable=False),
    Column("worker", Text),
    Column("elapsed_seconds", Double, nullable=False),
    Column("created_utc", Text, nullable=False),
    _checksum(),
    Index(None, "recipe_digest"),
)

events = Table(
    "events",
    metadata,
    Column("run_id", Integer, primary_key=True),
    Column("sequence", Integer, primary_key=True),  # 0, 1, 2, ...
    Column("kind", Text, nullable=False),
    Column("candidate", Integer, nullable=False),
    Column("elapsed_seconds", Double, nullable=False),
    Column("created_utc", Text, nullable=False),
    _checksum(),
    ForeignKeyConstraint(["run_id", "candidate"], ["candidates.run_id", "candidates.number"]),
    UniqueConstraint("run_id", "candidate", "kind"),
    CheckConstraint("kind IN ('ask', 'tell')", name="kind"),
)

grams = Table(
    "grams",
    metadata,
    Column("run_id", ForeignKey("runs.id"), primary_key=True),
    Column("of", Text, primary_key=True),  # digest of the sources and of their layout
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("products", Text, nullable=False),  # JSON list, K * K row by row
    _checksum(),
)
