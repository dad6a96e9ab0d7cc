"""Shares of ancestors, worked out by hand and against the rows that crossing gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evomerge.analysis.ancestry import Ancestry, ancestry
from evomerge.recipes import Recipe
from evomerge.spaces._coefficients import Coefficients, cross
from evomerge.spaces._crossing import MixedSpan, lerp_weights
from evomerge.types import Candidate, Genome

N = 100
SOURCES = ("math", "code")


def recipe(matrix: Coefficients) -> Recipe:
    return Recipe.model_validate(
        {
            "base": "b",
            "sources": {name: name for name in SOURCES},
            "operator": "segments",
            "dtype": "float32",
            "segments": {"bounds": matrix.bounds.tolist(), "rows": matrix.rows.tolist()},
        }
    )


class Family:
    """Candidates 0 and 1 are the sources; later ones are children."""

    def __init__(self) -> None:
        self.candidates: list[Candidate] = []
        self._matrices: list[Coefficients] = []
        for number, name in enumerate(SOURCES):
            one_hot = np.eye(2)[number : number + 1]
            genome = Genome({"source": name, "split[all]": 0.5, "ratio[all]": 0.5})
            self._add(genome, Coefficients(np.array([0, N]), one_hot))

    def _add(self, genome: Genome, matrix: Coefficients) -> None:
        number = len(self.candidates)
        self._matrices.append(matrix)
        self.candidates.append(
            Candidate(number=number, kind="search", genome=genome, recipe=recipe(matrix))
        )

    def breed(self, first: int, second: int, cut: int, ratio: float) -> None:
        parts = [MixedSpan(0, cut, lerp_weights(ratio)), MixedSpan(cut, N, lerp_weights(1 - ratio))]
        genes: dict[str, Any] = {
            "cut[all]": [0, cut, N],
            "left[all]": list(parts[0].weights),
            "right[all]": list(parts[1].weights),
            "chosen_by": "fitness",
            "bounds": [0, N],
            "rows": [[1.0, 0.0]],
        }
        matrices = self._matrices
        self._add(Genome(genes, (first, second)), cross(matrices[first], matrices[second], parts))

    def ancestry(self, number: int) -> Ancestry:
        return ancestry(self.candidates, number, dict.fromkeys(range(number + 1), 0.5))


def shares(found: Ancestry) -> dict[int, Any]:
    return {one.number: one.share for one in found.ancestors}


def test_parents_share_a_child_as_it_was_split() -> None:
    family = Family()
    family.breed(0, 1, 40, 0.25)  # 0.4 * 0.75 + 0.6 * 0.25
    found = family.ancestry(2)
    assert shares(found) == pytest.approx({2: 1.0, 1: 0.55, 0: 0.45})
    assert found.sources == pytest.approx({"math": 0.45, "code": 0.55})


def test_a_grandparent_gave_what_is_left_of_it_element_by_element() -> None:
    family = Family()
    family.breed(0, 1, 50, 0.0)  # math before 50, code after it
    family.breed(2, 0, 50, 1.0)  # math before 50, the child after it
    assert shares(family.ancestry(3)) == pytest.approx({3: 1.0, 2: 0.5, 1: 0.5, 0: 0.5})


def test_a_candidate_that_is_no_ancestor_is_left_out() -> None:
    family = Family()
    family.breed(0, 0, 10, 0.5)
    family.breed(2, 0, 10, 0.5)
    assert shares(family.ancestry(3)) == pytest.approx({3: 1.0, 2: 0.5, 0: 1.0})


def test_the_copy_of_one_parent_owes_it_everything() -> None:
    family = Family()
    family.breed(0, 1, 40, 0.25)
    copy = Genome({"bounds": [0, N], "rows": [[1.0, 0.0]]}, (2,))
    family.candidates.append(
        Candidate(number=3, kind="search", genome=copy, recipe=family.candidates[2].recipe)
    )
    assert shares(family.ancestry(3)) == pytest.approx({3: 1.0, 2: 1.0, 1: 0.55, 0: 0.45})


@pytest.mark.parametrize("number", [10, 60])
def test_the_shares_of_the_seeds_are_those_of_the_sources(number: int) -> None:
    family, rng = Family(), np.random.default_rng(0)
    for child in range(2, number + 1):
        first, second = (int(i) for i in rng.integers(max(0, child - 8), child, 2))
        family.breed(first, second, int(rng.integers(0, N + 1)), float(rng.random()))
    found = family.ancestry(number)
    seeds: Sequence[float] = [shares(found).get(seed, 0.0) for seed in (0, 1)]
    assert seeds == pytest.approx(list(found.sources.values()), abs=1e-9)


def test_genes_tell_how_and_why_without_what_the_recipe_repeats() -> None:
    family = Family()
    family.breed(0, 1, 40, 0.25)
    child, _, seed = family.ancestry(2).ancestors
    assert child.genes["chosen_by"] == "fitness" and "rows" not in child.genes
    assert seed.genes == {"source": "math"}


def test_a_candidate_without_parents_has_no_ancestors() -> None:
    genome = Genome({"weight": 0.5})
    mix = Recipe(base="b", sources={"a": "a", "c": "c"}, operator="linear", dtype="float32")
    found = ancestry([Candidate(number=0, kind="search", genome=genome, recipe=mix)], 0, {})
    assert (shares(found), dict(found.sources)) == ({0: 1.0}, {})


def after(family: Family, stage: str, **keys: Any) -> None:
    """One more candidate, made in a later stage of what the recipes of earlier ones are."""
    whole = {"base": "b", "operator": "linear", "dtype": "float32", **keys}
    number, genome = len(family.candidates), Genome({"weight": 0.5})
    made = Recipe.model_validate(whole)
    family.candidates.append(
        Candidate(number=number, kind="search", genome=genome, recipe=made, stage=stage)
    )


def staged() -> Family:
    """Candidate 2, a child of both sources, is the best of stage ``merge``."""
    family = Family()
    family.breed(0, 1, 40, 0.25)
    family.candidates = [replace(one, stage="merge") for one in family.candidates]
    return family


def test_the_best_of_an_earlier_stage_is_an_ancestor_with_all_of_its_own() -> None:
    family = staged()
    winner = family.candidates[2].recipe
    after(family, "add", sources={"merge": winner, "ja": "j"})
    found = family.ancestry(3)
    assert [one.number for one in found.ancestors] == [3, 2, 1, 0]
    assert [one.parents for one in found.ancestors] == [(2,), (0, 1), (), ()]
    assert shares(found) == {3: 1.0, 2: None, 1: None, 0: None}  # of no sum of sources


def test_the_best_of_an_earlier_stage_gave_its_share_in_a_sum() -> None:
    family = staged()
    winner = family.candidates[2].recipe
    segments = {"bounds": [0, N], "rows": [[0.25, 0.75]]}
    after(
        family, "add", sources={"merge": winner, "ja": "j"}, operator="segments", segments=segments
    )
    found = family.ancestry(3)
    assert shares(found) == pytest.approx({3: 1.0, 2: 0.25, 1: 0.25 * 0.55, 0: 0.25 * 0.45})
    assert found.sources == {"merge": 0.25, "ja": 0.75}


def test_a_line_through_three_stages_multiplies() -> None:
    family = staged()
    for stage, inner in (("add", 2), ("last", 3)):
        sources = {"inner": family.candidates[inner].recipe, "ja": "j"}
        segments = {"bounds": [0, N], "rows": [[0.5, 0.5]]}
        after(family, stage, sources=sources, operator="segments", segments=segments)
    expected = {4: 1.0, 3: 0.5, 2: 0.25, 1: 0.25 * 0.55, 0: 0.25 * 0.45}
    assert shares(family.ancestry(4)) == pytest.approx(expected)


def test_the_best_of_an_earlier_stage_is_an_ancestor_as_the_base() -> None:
    family = staged()
    after(family, "add", base=family.candidates[2].recipe, sources={"ja": "j"})
    found = family.ancestry(3)
    assert found.ancestors[0].parents == (2,)


def test_a_stack_of_merged_blocks_is_no_sum_of_sources() -> None:
    family = staged()
    sources = {"merge": family.candidates[2].recipe, "ja": "j"}
    slices = [{"base": [n, n + 1], "merge": [n, n + 1], "ja": [n, n + 1]} for n in (0, 1, 0)]
    after(family, "stack", sources=sources, operator="linear", slices=slices)
    assert (dict(family.ancestry(3).sources), shares(family.ancestry(3))[2]) == ({}, None)
    whole = [{"merge": [0, 1]}, {"ja": [1, 2]}, {"merge": [1, 2]}, {"merge": [2, 3]}]
    after(family, "stack", sources=sources, operator="passthrough", slices=whole)
    assert family.ancestry(4).sources == {"merge": 0.75, "ja": 0.25}
    assert shares(family.ancestry(4))[2] == 0.75
