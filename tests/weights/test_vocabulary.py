from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.errors import CheckpointError
from evomerge.weights.vocabulary import align, row_map, token_ids


def test_token_ids_are_those_of_the_tokenizer(tiny: Callable[..., Path]) -> None:
    from transformers import AutoTokenizer

    assert token_ids(tiny()) == AutoTokenizer.from_pretrained(tiny()).get_vocab()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"model": {"vocab": {"a": 0, "b": 1}}}, {"a": 0, "b": 1}),
        ({"model": {"vocab": [["a", -1.5], ["b", -2.0]]}}, {"a": 0, "b": 1}),
        (
            {"model": {"vocab": {"a": 0}}, "added_tokens": [{"content": "<s>", "id": 9}]},
            {"a": 0, "<s>": 9},
        ),
        ({"model": {"vocab": {"a": 0}}, "added_tokens": None}, {"a": 0}),
    ],
)
def test_every_kind_of_tokenizer_is_read(
    tmp_path: Path, content: Any, expected: dict[str, int]
) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert token_ids(tmp_path) == expected


def test_a_folder_without_tokenizer_has_no_token_ids(tmp_path: Path) -> None:
    assert token_ids(tmp_path) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", '{"model": null}', '{"model": {"vocab": null}}', "[" * 100_000),
        *('{"model": {"vocab": {"a": "x"}}}', '{"model": {"vocab": {"a": -1}}}'),
        '{"model": {"vocab": {"a": 0}}, "added_tokens": [3]}',
    ],
)
def test_a_damaged_tokenizer_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"tokenizer.json: not a tokenizer"):
        token_ids(tmp_path)


def test_rows_are_mapped_by_token_string() -> None:
    base = {"a": 0, "b": 1, "c": 3}
    source = {"b": 0, "c": 2, "z": 1}
    assert row_map(base, source, 5, 3).tolist() == [-1, 0, -1, 2, -1]


def test_tokens_beyond_the_embeddings_are_unknown() -> None:
    assert row_map({"a": 0, "b": 10**12}, {"a": 10**12, "b": 0}, 2, 2).tolist() == [-1, -1]


@pytest.mark.parametrize("width", [(), (2,)])
def test_align_takes_known_rows_and_keeps_the_base_elsewhere(width: tuple[int, ...]) -> None:
    base = torch.tensor([1.0, 2.0, 3.0]).view(3, *[1] * len(width)).expand(3, *width)
    source = torch.tensor([10.0, 20.0]).view(2, *[1] * len(width)).expand(2, *width)
    aligned = align(source, base, torch.tensor([1, -1, 0]))
    expected = torch.tensor([20.0, 2.0, 10.0]).view(3, *[1] * len(width)).expand(3, *width)
    assert torch.equal(aligned, expected)


def test_align_neither_rounds_nor_changes_the_base() -> None:
    base = torch.tensor([[1 + 2**-20]])  # bfloat16 would lose it
    source = torch.ones(1, 1, dtype=torch.bfloat16)
    assert torch.equal(align(source, base, torch.tensor([-1])), base)
    align(source, base, torch.tensor([0]))
    assert base.item() == 1 + 2**-20
