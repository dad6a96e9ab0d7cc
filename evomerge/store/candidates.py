"""Rows of `candidates`, with their `parents` and `recipes`.

A candidate's row holds the last step of its lineage, its ancestors' rows the others. Written with
every candidate, all the steps would make the file grow with the square of their number.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sqlalchemy import Connection, bindparam, exists, insert, select

from evomerge.errors import StoreError
from evomerge.recipes import Recipe
from evomerge.store.checksums import with_checksum
from evomerge.store.records import to_json, utc_now
from evomerge.store.schema import candidates, parents, recipes
from evomerge.types import Candidate, Genome

_PLAIN = ("number", "kind", "label", "role", "stage")  # columns as they are
_GENE = "steps"
Genes = dict[str, Any]

# Built once: building them takes longer than SQLite does.
_ADD = insert(candidates)
_ADD_PARENTS = insert(parents)
_ADD_RECIPE = insert(recipes).from_select(
    recipes.columns.keys(),
    select(*(bindparam(c.name, type_=c.type) for c in recipes.columns)).where(
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
    merged = {"digest": recipe.digest, "json": text}
    connection.execute(_ADD_RECIPE, with_checksum(recipes, merged))
    row = {
        "run_id": run_id,
        **{name: getattr(candidate, name) for name in _PLAIN},
        "genes": to_json(genes),
        "recipe_digest": recipe.digest,
        "created_utc": utc_now(),
    }
    connection.execute(_ADD, with_checksum(candidates, row))
    lineage = [
        {"run_id": run_id, "child": candidate.number, "position": position, "parent": parent}
        for position, parent in enumerate(candidate.genome.parents)
    ]
    if lineage:
        connection.execute(_ADD_PARENTS, [with_checksum(parents, row) for row in lineage])


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
                **{name: getattr(row, name) for name in _PLAIN},
                genome=Genome(genes, tuple(lineage.get(row.number, ()))),
                recipe=_recipe(row.recipe_digest, text),
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


class Steps:
    """The steps of all lineages of a run, as parsed JSON; each is kept once."""

    def __init__(self) -> None:
        self._known: dict[int, dict[str, Any]] = {}

    def shorten(self, genes: Genes, recipe: str) -> tuple[Genes, str]:
        """Genes and recipe with the last step in place of the list of all steps.

        They stay as they are where the list does not follow from that step and earlier candidates.

        Args:
            recipe: as canonical JSON.
        """
        steps: Any = genes.get(_GENE)
        if not _is_list_of_steps(steps) or not self._learn(steps[-1]):
            return genes, recipe
        if self._leading_to(steps[-1]) != steps:
            return genes, recipe
        long = _in_recipe(steps)
        if recipe.count(long) != 1:
            return genes, recipe
        return genes | {_GENE: steps[-1]}, recipe.replace(long, _in_recipe(steps[-1]))

    def complete(self, genes: Genes, recipe: str) -> tuple[Genes, str]:
        """Inverse of `shorten`, for candidates in the order of their numbers.

        Raises:
            StoreError: an ancestor is missing.
        """
        gene: Any = genes.get(_GENE)
        whole = _is_list_of_steps(gene)
        if not whole and not _is_step(gene):
            return genes, recipe
        last = gene[-1] if whole else gene
        self._learn(last)
        steps = gene if whole else self._leading_to(last)
        if steps is None:
            raise StoreError(f"step {last['number']}: an ancestor of it is missing.")
        return genes | {_GENE: steps}, recipe.replace(_in_recipe(last), _in_recipe(steps), 1)

    def _learn(self, step: dict[str, Any]) -> bool:
        """Keep a step; False where another one has its number."""
        return self._known.setdefault(step["number"], step) == step

    def _leading_to(self, step: dict[str, Any]) -> list[dict[str, Any]] | None:
        """All steps up to this one, sorted by number; None where one is not known."""
        steps = {step["number"]: step}
        waiting = [step]
        while waiting:
            for parent in waiting.pop()["parents"]:
                if isinstance(parent, int) and parent not in steps:
                    if parent not in self._known:
                        return None
                    steps[parent] = self._known[parent]
                    waiting.append(steps[parent])
        return [steps[number] for number in sorted(steps)]


def _is_step(gene: Any) -> bool:
    return isinstance(gene, dict) and {"number", "parents"} <= gene.keys()


def _is_list_of_steps(gene: Any) -> bool:
    return isinstance(gene, list) and bool(gene) and all(map(_is_step, gene))


def _in_recipe(steps: Any) -> str:
    """The gene with these steps as it stands in the canonical JSON of a recipe."""
    return f'"{_GENE}":{json.dumps(steps, sort_keys=True, separators=(",", ":"))}'
