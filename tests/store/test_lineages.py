"""Children with mutations: what a row holds of their ancestors, and what is read."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import StoreError
from evomerge.recipes import Recipe
from evomerge.store import Store
from evomerge.store.checking import accept
from evomerge.types import Candidate, Genome

SOURCES = {"x": "models/x", "y": "models/y"}


def child(number: int, *parents: Candidate) -> Candidate:
    """Of one candidate or two; a seed of none."""
    keys: dict[str, Any] = {"base": "models/x", "sources": SOURCES, "dtype": "float32"}
    if not parents:
        name = list(SOURCES)[number]
        recipe = Recipe.model_validate(
            {**keys, "sources": {name: SOURCES[name]}, "operator": "linear"}
        )
        return Candidate(
            number=number, kind="search", genome=Genome({"source": name}), recipe=recipe
        )
    known = [p.genome.genes for p in parents]
    names = [
        genes["source"] if "source" in genes else genes["steps"][-1]["number"] for genes in known
    ]
    own = {"number": number, "parents": names, "ends": [3, 10], "sigma": 0.01}
    own["weights"] = [[1.0 / len(names)] * len(names)] * 2
    before = {s["number"]: s for genes in known for s in genes.get("steps", [])}
    steps = [*(before[n] for n in sorted(before)), own]
    recipe = Recipe.model_validate({**keys, "operator": "segments", "lineage": {"steps": steps}})
    genes = {"split": 0.3, "steps": steps, "sigma": 0.01}
    return Candidate(
        number=number,
        kind="search",
        genome=Genome(genes, tuple(p.number for p in parents)),
        recipe=recipe,
    )


def family(count: int) -> list[Candidate]:
    """Two seeds, and children of the two before them."""
    made = [child(0), child(1)]
    while len(made) < count:
        made.append(child(len(made), *made[-2:]))
    return made


def record(store: Store, candidates: list[Candidate]) -> None:
    for one in candidates:
        store.record_ask(one, float(one.number))


def rows(folder: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(Store.path(folder))) as connection:
        return connection.execute(
            "SELECT genes, json FROM candidates JOIN recipes ON recipe_digest = digest "
            "ORDER BY number"
        ).fetchall()


def test_a_row_does_not_grow_with_its_ancestors_and_reads_back_equal(
    tmp_path: Path, run: Any
) -> None:
    made = family(60)
    with Store.create(tmp_path, run) as store:
        record(store, made)
        assert store.candidates() == made
    with Store.open(tmp_path, read_only=True) as store:
        found = store.candidates()
    assert found == made
    assert [list(c.genome.genes) for c in found] == [list(c.genome.genes) for c in made]
    assert [c.recipe.digest for c in found] == [c.recipe.digest for c in made]
    for column in (0, 1):
        lengths = [len(row[column]) for row in rows(tmp_path)]
        assert lengths[-1] < lengths[4] + 16  # larger numbers
    assert len(made[-1].recipe.canonical_json()) > 10 * len(rows(tmp_path)[-1][1])


def test_rows_that_hold_all_steps_are_read_and_added_to(tmp_path: Path, run: Any) -> None:
    made = family(8)
    with Store.create(tmp_path, run) as store:
        record(store, made[:6])
    with closing(sqlite3.connect(Store.path(tmp_path))) as connection, connection:
        for one in made[:6]:
            genes, text = json.dumps(dict(one.genome.genes)), one.recipe.canonical_json()
            connection.execute(
                "UPDATE candidates SET genes = ? WHERE number = ?", (genes, one.number)
            )
            connection.execute(
                "UPDATE recipes SET json = ? WHERE digest = ?", (text, one.recipe.digest)
            )
    accept(tmp_path)
    with Store.open(tmp_path) as store:
        assert store.candidates() == made[:6]
        record(store, made[6:])
    with Store.open(tmp_path, read_only=True) as store:
        assert store.candidates() == made
    assert isinstance(json.loads(rows(tmp_path)[5][0])["steps"], list)
    assert isinstance(json.loads(rows(tmp_path)[7][0])["steps"], dict)


def test_a_writer_that_has_read_nothing_writes_all(tmp_path: Path, run: Any) -> None:
    made = family(8)
    with Store.create(tmp_path, run) as store:
        record(store, made[:6])
    with Store.open(tmp_path) as store:
        record(store, made[6:])
    with Store.open(tmp_path, read_only=True) as store:
        assert store.candidates() == made


@pytest.mark.parametrize("steps", [[], 3, {"a": 1}, [{"number": 7, "parents": [2]}], ["x"]])
def test_a_gene_of_that_name_that_is_no_lineage_is_kept(
    tmp_path: Path, run: Any, steps: Any
) -> None:
    odd = replace(child(0), genome=Genome({"steps": steps, "other": 1}))
    with Store.create(tmp_path, run) as store:
        record(store, [odd])
        assert store.candidates() == [odd]


def test_a_missing_ancestor_is_an_error(tmp_path: Path, run: Any) -> None:
    with Store.create(tmp_path, run) as store:
        record(store, family(5))
    with closing(sqlite3.connect(Store.path(tmp_path))) as connection, connection:
        seed = "SELECT recipe_digest FROM candidates WHERE number = 0"
        connection.execute(
            f"UPDATE candidates SET genes = '{{}}', recipe_digest = ({seed}) WHERE number = 3"
        )
    accept(tmp_path)
    with (
        Store.open(tmp_path) as store,
        pytest.raises(StoreError, match="step 4: an ancestor of it"),
    ):
        store.candidates()
