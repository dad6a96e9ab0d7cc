"""Runs the migrations on the connection that `evomerge.store.database` hands over."""

from __future__ import annotations

from alembic import context

from evomerge.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
)
context.run_migrations()
