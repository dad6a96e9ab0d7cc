"""Arrays made of tensors, and what is read of them: compared with the same steps in torch."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from evomerge.weights.architecture.arrays import (
    Array,
    Leaf,
    cut,
    invert,
    join,
    leaves,
    reshape,
    substitute,
    swap,
)
from evomerge.weights.layouts.lazy_arrays import LazyArray, boxes

TENSORS: Mapping[str, Tensor] = {
    "a": torch.arange(24.0).view(4, 6),
    "b": torch.arange(100.0, 124.0).view(4, 6),
    "c": torch.arange(200.0, 248.0).view(2, 4, 6),
}
A, B, C = (Leaf(name, tuple(tensor.shape)) for name, tensor in TENSORS.items())


def stacked(*parts: Array) -> Array:
    return join([reshape(part, (1, *part.shape)) for part in parts], 0)


def interleaved(array: Array, axis: int) -> Array:
    """Even rows, then odd rows."""
    size = array.shape[axis]
    split = (*array.shape[:axis], size // 2, 2, *array.shape[axis + 1 :])
    return reshape(swap(reshape(array, split), axis, axis + 1), array.shape)


a, b, c = TENSORS.values()
CASES = {
    "a leaf": (A, a),
    "joined rows": (join([A, B], 0), torch.cat([a, b])),
    "joined columns": (join([A, B], 1), torch.cat([a, b], 1)),
    "stacked": (stacked(A, B), torch.stack([a, b])),
    "stacked and joined": (join([stacked(A, B), C], 1), torch.cat([torch.stack([a, b]), c], 1)),
    "turned": (swap(A, 0, 1), a.T),
    "turned within a stack": (swap(stacked(A, B), 1, 2), torch.stack([a.T, b.T])),
    "cut": (cut(C, 1, 1, 2), c[:, 1:3]),
    "cut twice": (cut(cut(C, 1, 1, 2), 2, 3, 3), c[:, 1:3, 3:]),
    "cut out of joined rows": (cut(join([A, B], 0), 0, 3, 2), torch.cat([a, b])[3:5]),
    "flattened": (reshape(join([A, B], 1), (48,)), torch.cat([a, b], 1).reshape(-1)),
    "flattened from the second axis": (reshape(C, (2, 24)), c.reshape(2, 24)),
    "split": (reshape(A, (2, 2, 3, 2)), a.view(2, 2, 3, 2)),
    "split across": (reshape(A, (3, 8)), a.reshape(3, 8)),
    "interleaved rows": (interleaved(A, 0), torch.cat([a[::2], a[1::2]])),
    "interleaved in the middle": (interleaved(C, 1), torch.cat([c[:, ::2], c[:, 1::2]], 1)),
    "half of the interleaved": (cut(interleaved(A, 0), 0, 1, 2), torch.cat([a[::2], a[1::2]])[1:3]),
}


@pytest.mark.parametrize("name", CASES)
def test_every_stretch_of_an_array_has_the_elements_that_torch_gives(name: str) -> None:
    array, expected = CASES[name]
    lazy = LazyArray(array, TENSORS.__getitem__)
    flat = expected.reshape(-1)
    assert array.shape == expected.shape
    assert torch.equal(lazy.whole(), expected)
    for start in range(len(flat)):
        for stop in range(start + 1, len(flat) + 1):
            assert torch.equal(lazy.slice(start, stop), flat[start:stop])


@pytest.mark.parametrize("name", [n for n in CASES if "cut" not in n and "half" not in n])
def test_what_is_made_of_tensors_gives_them_back(name: str) -> None:
    array, expected = CASES[name]
    for own, inverse in invert({"made": array}).items():
        assert torch.equal(LazyArray(inverse, {"made": expected}.__getitem__).whole(), TENSORS[own])


def test_a_part_of_a_tensor_does_not_give_it_back() -> None:
    assert invert({"made": cut(A, 0, 0, 2)}) == {}


def test_parts_give_a_tensor_back_together() -> None:
    parts = {"first": cut(A, 0, 0, 1), "rest": cut(A, 0, 1, 3)}
    values = {"first": a[:1], "rest": a[1:]}
    assert torch.equal(LazyArray(invert(parts)["a"], values.__getitem__).whole(), a)


@pytest.mark.parametrize(
    "name", ["stacked and joined", "turned within a stack", "interleaved rows"]
)
def test_what_is_packed_and_unpacked_again_is_the_tensor_itself(name: str) -> None:
    array, _ = CASES[name]
    for own, inverse in invert({"made": array}).items():
        again = substitute(inverse, {"made": array})
        assert [leaf.name for leaf in leaves(again)] == [own]
        assert isinstance(again, Leaf)


def test_neighbouring_cuts_become_one() -> None:
    assert join([cut(A, 0, 0, 1), cut(A, 0, 1, 3)], 0) is A


def test_only_the_tensors_that_are_asked_for_are_opened() -> None:
    opened: list[str] = []

    def read(name: str) -> Tensor:
        opened.append(name)
        return TENSORS[name]

    lazy = LazyArray(join([A, B], 0), read)
    lazy.slice(24, 30)
    lazy.slice(30, 36)
    assert opened == ["b"]


def test_boxes_take_whole_rows_where_they_can() -> None:
    assert list(boxes((4, 6), 3, 20)) == [
        [(0, 1), (3, 6)],
        [(1, 3), (0, 6)],
        [(3, 4), (0, 2)],
    ]


@pytest.mark.parametrize("shapes", [((2, 3), (3, 3)), ((2, 3), (2, 3, 1))])
def test_what_does_not_fit_is_not_joined(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="cannot join"):
        join([Leaf(str(shape), shape) for shape in shapes], 1)
