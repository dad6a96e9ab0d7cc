"""Rows of `candidates`, with their `parents` and `recipes`."""

from __future__ import annotations

import hashlib
import json

from sqlalchemy import Connection, Text, bindparam, exists, insert, select

from evomerge.errors import StoreError
from evomerge.nouns import Candidate, Genome
from evomerge.recipes import Recipe
from evomerge.store.records import to_json, utc_now
from evomerge.store.schema import candidates, parents, recipes

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


def add(connection: Connection, run_id: int, candidate: Candidate) -> None:
    """Insert a candidate, its parents, and its recipe unless it is known."""
    row = {
        "run_id": run_id,
        "number": candidate.number,
        "kind": candidate.kind,
        "label": candidate.label,
        "genes": to_json(dict(candidate.genome.genes)),
        "recipe_digest": _add_recipe(connection, candidate.recipe),
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


def load(connection: Connection, run_id: int) -> list[Candidate]:
    """All candidates of a run, by number."""
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
    return [
        Candidate(
            number=row.number,
            kind=row.kind,
            label=row.label,
            genome=Genome(json.loads(row.genes), tuple(lineage.get(row.number, ()))),
            recipe=_recipe(row.recipe_digest, row.json),
            stage=row.stage,
        )
        for row in rows
    ]


def recipe_digest(connection: Connection, run_id: int, number: int) -> str | None:
    """The recipe of a candidate; None when the run has no such candidate."""
    return connection.execute(_RECIPE_DIGEST, {"run_id": run_id, "number": number}).scalar()


def _recipe(digest: str, text: str) -> Recipe:
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise StoreError(f"recipe {digest}: its text was changed. Restore the run from a copy.")
    return Recipe.from_canonical_json(text)


def _add_recipe(connection: Connection, recipe: Recipe) -> str:
    digest = recipe.digest
    connection.execute(_ADD_RECIPE, {"digest": digest, "json": recipe.canonical_json()})
    return digest
