"""Rows of `candidates`, with their `parents` and `recipes`."""

from __future__ import annotations

import hashlib
import json

from sqlalchemy import Connection, Text, bindparam, exists, insert, select

from evomerge.errors import StoreError
from evomerge.recipes import Recipe
from evomerge.store.lineages import Steps
from evomerge.store.records import to_json, utc_now
from evomerge.store.schema import candidates, parents, recipes
from evomerge.types import Candidate, Genome

# Built once: building them takes longer than SQLite does.
_ADD = insert(candidates)
_ADD_PARENTS = insert(parents)
_ADD_RECIPE = insert(recipes).from_select(
    ["digest", "json"],
    select(bindparam("digest", type_=Text), bindparam("json", type_=Text)).where(
        ~exists().where(recipes.c.digest == bindparam("digest"))
    ),
)
_RECIPE_DIGEST = select(candidates.c.recipe_digest).where(
    candidates.c.run_id == bindparam("run_id"), candidates.c.number == bindparam("number")
)


def add(connection: Connection, run_id: int, candidate: Candidate, steps: Steps) -> None:
    """Insert a candidate, its parents, and its recipe unless that is known."""
    recipe = candidate.recipe
    genes, text = steps.shorten(dict(candidate.genome.genes), recipe.canonical_json())
    connection.execute(_ADD_RECIPE, {"digest": recipe.digest, "json": text})
    row = {
        "run_id": run_id,
        "number": candidate.number,
        "kind": candidate.kind,
        "label": candidate.label,
        "role": candidate.role,
        "genes": to_json(genes),
        "recipe_digest": recipe.digest,
        "created_utc": utc_now(),
        "stage": candidate.stage,
    }
    connection.execute(_ADD, row)
    lineage = [
        {"run_id": run_id, "child": candidate.number, "position": position, "parent": parent}
        for position, parent in enumerate(candidate.genome.parents)
    ]
    if lineage:
        connection.execute(_ADD_PARENTS, lineage)


def load(connection: Connection, run_id: int, steps: Steps) -> list[Candidate]:
    """All candidates of a run, by number; ``steps`` learns their lineages."""
    lineage: dict[int, list[int]] = {}
    pairs = select(parents.c.child, parents.c.parent).where(parents.c.run_id == run_id)
    for child, parent in connection.execute(pairs.order_by(parents.c.child, parents.c.position)):
        lineage.setdefault(child, []).append(parent)
    rows = connection.execute(
        select(candidates, recipes.c.json)
        .join(recipes)
        .where(candidates.c.run_id == run_id)
        .order_by(candidates.c.number)
    )
    loaded = []
    for row in rows:
        genes, text = steps.complete(json.loads(row.genes), row.json)
        loaded.append(
            Candidate(
                number=row.number,
                kind=row.kind,
                role=row.role,
                label=row.label,
                genome=Genome(genes, tuple(lineage.get(row.number, ()))),
                recipe=_recipe(row.recipe_digest, text),
                stage=row.stage,
            )
        )
    return loaded


def recipe_digest(connection: Connection, run_id: int, number: int) -> str | None:
    """The recipe of a candidate; None when the run has no such candidate."""
    return connection.execute(_RECIPE_DIGEST, {"run_id": run_id, "number": number}).scalar()


def _recipe(digest: str, text: str) -> Recipe:
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise StoreError(f"recipe {digest}: its text was changed. Restore the run from a copy.")
    return Recipe.from_canonical_json(text)
