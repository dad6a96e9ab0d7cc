"""In which order tensors are laid end to end, and how segments fall on them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from evomerge.errors import RecipeError
from evomerge.recipes import Recipe, Segments
from evomerge.recipes.layout import Layout, lay_out
from evomerge.recipes.places import Place
from evomerge.recipes.yaml import from_yaml, to_yaml
from evomerge.yaml_files import parse_yaml

PLACES = {
    "lm_head.weight": Place(None, "head"),
    "model.layers.1.mlp.weight": Place(1, "mlp"),
    "model.layers.0.mlp.weight": Place(0, "mlp"),
    "model.layers.0.attn.weight": Place(0, "attention"),
    "model.layers.1.attn.weight": Place(1, "attention"),
    "model.norm.weight": Place(None, "norm"),
    "model.embed.weight": Place(None, "embedding"),
}
SIZES = dict.fromkeys(PLACES, 10)


def laid(*chromosomes: list[str]) -> Layout:
    return lay_out(PLACES, SIZES, chromosomes)


def test_blocks_lie_between_embedding_and_final_norm_and_the_head_is_last() -> None:
    found = laid(["all"])
    assert found.names == (
        "model.embed.weight",
        "model.layers.0.attn.weight",
        "model.layers.0.mlp.weight",
        "model.layers.1.attn.weight",
        "model.layers.1.mlp.weight",
        "model.norm.weight",
        "lm_head.weight",
    )
    assert found.starts == (0, 10, 20, 30, 40, 50, 60, 70)
    assert found.layers == (0, 10, 30, 50, 60, 70)
    assert found.edges == (0, 70)


def test_the_tensors_of_a_chromosome_lie_together() -> None:
    found = laid(["rest"], ["attention", "*.norm.weight"])
    assert found.names[-3:] == (
        "model.layers.0.attn.weight",
        "model.layers.1.attn.weight",
        "model.norm.weight",
    )
    assert found.edges == (0, 40, 70)


def test_the_first_chromosome_that_fits_counts_and_rest_comes_last() -> None:
    found = laid(["rest"], ["model.layers.0.*"], ["mlp"])
    assert found.edges == (0, 40, 60, 70)
    assert found.names[-1] == "model.layers.1.mlp.weight"


def test_words_that_select_nothing_and_tensors_that_none_selects_are_reported() -> None:
    with pytest.raises(RecipeError) as caught:
        laid(["attension"], ["mlp"])
    first, second = caught.value.problems
    assert first == "chromosomes: no tensor belongs to attension. Did you mean 'attention'?"
    assert second.startswith("chromosomes: 5 tensors belong to none, lm_head.weight first. Add")


def test_pieces_are_counted_from_the_first_element_of_each_tensor() -> None:
    segments = Segments(bounds=(0, 20, 25, 41, 70), rows=((1.0,), (2.0,), (3.0,), (4.0,)))
    found = list(laid(["all"]).pieces(segments).values())
    assert found == [
        ((10, (1.0,)),),
        ((10, (1.0,)),),
        ((5, (2.0,)), (10, (3.0,))),
        ((10, (3.0,)),),
        ((1, (3.0,)), (10, (4.0,))),
        ((10, (4.0,)),),
        ((10, (4.0,)),),
    ]


def recipe(**segments: Any) -> Recipe:
    return Recipe(
        base="b",
        sources={"x": "x", "y": "y"},
        operator="segments",
        dtype="float32",
        segments=Segments(**segments),
    )


def test_a_recipe_of_segments_survives_its_texts_to_the_bit() -> None:
    rows = ((0.1 + 0.2, 1 / 3), (1e-17, 1.0))
    one = recipe(bounds=(0, 5, 70), rows=rows, chromosomes=(("mlp",), ("rest", "head")))
    for again in (
        Recipe.from_canonical_json(one.canonical_json()),
        from_yaml(parse_yaml(to_yaml(one), "r.yaml"), "r.yaml"),
    ):
        assert again == one and again.digest == one.digest
        assert again.segments is not None and again.segments.rows == rows


@pytest.mark.parametrize(
    ("segments", "problem"),
    [
        ({"bounds": (1, 5), "rows": ((1.0, 0.0),)}, "expected elements that ascend from 0"),
        ({"bounds": (0, 5, 5), "rows": ((1.0, 0.0),) * 2}, "expected elements that ascend"),
        ({"bounds": (0, 5), "rows": ()}, "0 rows for 1 segments. Give one row for each."),
        ({"bounds": (0, 5), "rows": ((1.0,),)}, "segments.rows.0: 1 weights for 2 sources"),
        ({"bounds": (0, 5), "rows": ((1.0, float("inf")),)}, "Input should be a finite number"),
    ],
)
def test_segments_that_are_none_are_refused(segments: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        recipe(**segments)
