from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from evomerge.errors import PlanError
from evomerge.recipes import Recipe
from evomerge.recipes.places import Place
from evomerge.weights.library import Library
from evomerge.weights.merge import merge
from evomerge.weights.slots import block_ranges

Tiny = Callable[..., Path]
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
UP = "model.layers.{}.mlp.up_proj.weight"


def recipe(own: Path, slices: Any, operator: str = "linear", **sources: Path) -> Recipe:
    return Recipe.model_validate(
        {
            "base": str(own),
            "sources": {name: str(path) for name, path in sources.items()},
            **{"operator": operator, "dtype": "float32", "slices": slices},
        }
    )


def merged(recipe: Recipe) -> dict[str, Tensor]:
    return dict(merge(Library().plan(recipe)))


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def block(tensors: dict[str, Tensor], layer: int) -> dict[str, Tensor]:
    prefix = f"model.layers.{layer}."
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def assert_same(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_blocks_of_two_models_are_stacked(tiny: Tiny) -> None:
    deep = tiny(2, num_hidden_layers=5)
    made = merged(recipe(tiny(), [{"a": [0, 2]}, {"b": [1, 5]}], a=tiny(1), b=deep))
    assert {int(m[1]) for n in made if (m := re.search(r"layers\.(\d+)\.", n))} == set(range(6))
    one, two = weights(tiny(1)), weights(deep)
    expected = [(one, 0), (one, 1), (two, 1), (two, 2), (two, 3), (two, 4)]
    for layer, (tensors, own) in enumerate(expected):
        assert_same(block(made, layer), block(tensors, own))
    assert torch.equal(made[EMBEDDING], one[EMBEDDING])  # of the first slice
    assert torch.equal(made[NORM], two[NORM])  # of the last
    assert torch.equal(made[HEAD], two[HEAD])


def test_a_slice_merges_the_blocks_that_it_names(tiny: Tiny) -> None:
    made = merged(recipe(tiny(), [{"a": [0, 2], "b": [1, 3]}], a=tiny(1), b=tiny(2)))
    one, two = weights(tiny(1)), weights(tiny(2))
    mean = (one[UP.format(1)] + two[UP.format(2)]) / 2
    torch.testing.assert_close(made[UP.format(1)], mean, rtol=0, atol=1e-7)


def test_slices_of_equal_blocks_are_the_whole_model(tiny: Tiny) -> None:
    whole = merged(recipe(tiny(), [], "task_arithmetic", a=tiny(1), b=tiny(2)))
    halves = [{"a": [0, 1], "b": [0, 1]}, {"a": [1, 3], "b": [1, 3]}]
    sliced = recipe(tiny(), halves, "task_arithmetic", a=tiny(1), b=tiny(2))
    assert_same(merged(sliced), whole)


@pytest.mark.parametrize("named", [True, False])
def test_a_base_that_is_not_named_has_the_blocks_of_the_first_source(
    tiny: Tiny, named: bool
) -> None:
    """A source that equals the base has a zero task vector only where their blocks agree."""
    ranges = {"a": [2, 3], "b": [0, 1]} | ({"base": [1, 2]} if named else {})
    plan = Library().plan(recipe(tiny(), [ranges], "task_arithmetic", a=tiny(), b=tiny(1)))
    slot = next(slot for slot in plan.models.slots if slot.name == UP.format(0))
    assert slot.base == UP.format(1 if named else 2)
    assert slot.inputs == {"a": UP.format(2), "b": UP.format(0)}
    assert slot.place == Place(0, "mlp")


def test_the_base_alone_is_copied_where_a_slice_names_a_copy_of_it(tiny: Tiny) -> None:
    slices = [{"base": [0, 2]}, {"a": [1, 2]}]
    made = merged(recipe(tiny(), slices, base=tiny(), a=tiny(1)))
    assert_same(block(made, 1), block(weights(tiny()), 1))
    assert_same(block(made, 2), block(weights(tiny(1)), 1))


def test_blocks_of_a_base_that_is_a_source_pass_through(tiny: Tiny) -> None:
    slices = [{"base": [0, 2]}, {"a": [1, 2]}, {"base": [2, 3]}]
    made = merged(recipe(tiny(), slices, "passthrough", base=tiny(), a=tiny(1)))
    assert_same(block(made, 2), block(weights(tiny(1)), 1))
    assert_same(block(made, 3), block(weights(tiny()), 2))


def test_two_models_in_a_slice_do_not_pass_through(tiny: Tiny) -> None:
    both = recipe(tiny(), [{"base": [0, 1], "a": [1, 2]}], "passthrough", base=tiny(), a=tiny(1))
    with pytest.raises(PlanError, match=r"passthrough merges one source\. Got 2: in each slice"):
        Library().plan(both)


def test_a_base_too_shallow_for_its_part_gives_nothing_there(tiny: Tiny) -> None:
    deep = tiny(1, num_hidden_layers=5)
    plan = Library().plan(recipe(tiny(), [{"a": [1, 5]}], a=deep))
    bases = {s.name: s.base for s in plan.models.slots if s.place.layer is not None}
    assert bases[UP.format(1)] == UP.format(2)
    assert bases[UP.format(2)] is None


def test_one_model_may_be_two_sources(tiny: Tiny) -> None:
    made = merged(recipe(tiny(), [{"a": [0, 1], "again": [2, 3]}], a=tiny(1), again=tiny(1)))
    one = weights(tiny(1))
    mean = (one[UP.format(0)] + one[UP.format(2)]) / 2
    torch.testing.assert_close(made[UP.format(0)], mean, rtol=0, atol=1e-7)


def test_random_numbers_depend_on_the_merged_name(tiny: Tiny) -> None:
    slots = Library().plan(recipe(tiny(), [{"a": [1, 2]}] * 2, a=tiny(1))).models.slots
    assert {s.key for s in slots if s.place.role == "mlp" and "up_proj" in s.name} == {
        *(UP.format(0), UP.format(1))
    }


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_model_lends_its_embedding_to_the_last_slice(tiny: Tiny, tied: bool) -> None:
    base, source = tiny(tied=tied), tiny(1, tied=not tied)
    made = merged(recipe(base, [{"a": [0, 1]}, {"b": [1, 3]}], a=base, b=source))
    owner = weights(source)
    assert torch.equal(made[HEAD], owner.get(HEAD, owner[EMBEDDING]))
    assert torch.equal(made[EMBEDDING], weights(base)[EMBEDDING])


def test_sources_outside_a_slice_do_not_lack_its_tensors(tiny: Tiny) -> None:
    models = Library().models(recipe(tiny(), [{"a": [0, 2]}, {"b": [1, 3]}], a=tiny(1), b=tiny(2)))
    assert models.notes == []
    assert models.layers == 4


def test_every_range_beyond_a_model_is_named_with_other_mistakes(
    tiny: Tiny, changed: Callable[..., Path]
) -> None:
    other = changed(tiny(1), model_type="other")
    slices = [{"base": [2, 4], "a": [1, 3]}, {"b": [2, 9]}]
    with pytest.raises(PlanError) as error:
        Library().models(recipe(tiny(), slices, a=tiny(2), b=other))
    assert error.value.problems == (
        "b: model_type is 'other', the base has 'llama'. Drop this source.",
        "slices.0.base: the range [2, 4) ends outside base, which has 3 blocks. "
        "End it at 3 or before.",
        "slices.1.b: the range [2, 9) ends outside b, which has 3 blocks. End it at 3 or before.",
    )


def test_per_block_settings_count_merged_blocks(tiny: Tiny) -> None:
    sliced = recipe(tiny(), [{"a": [0, 3]}, {"a": [1, 3]}], a=tiny(1))
    right = sliced.model_copy(update={"parameters": {"weight": [1.0, 2.0, 3.0, 4.0, 5.0]}})
    steps = {step.slot.name: step for step in Library().plan(right).steps}
    assert steps[UP.format(4)].per_source["weight"] == (5.0,)
    wrong = sliced.model_copy(update={"parameters": {"weight": [1.0, 2.0, 3.0]}})
    with pytest.raises(PlanError, match="3 values, but the model has 5 blocks"):
        Library().plan(wrong)


def test_a_slice_that_does_not_name_a_model_is_none_of_its_part() -> None:
    slices = ({"a": (0, 2)}, {"b": (3, 4), "a": (4, 5)})
    part = block_ranges("b", slices)
    assert part is not None
    assert part.ranges == (None, (3, 4))
    assert list(part.blocks()) == [(2, 3)]
    assert block_ranges("a", ()) is None
