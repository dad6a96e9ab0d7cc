from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.errors import CheckpointError
from evomerge.weights.files.token_ids import special_tokens, token_ids
from evomerge.weights.lazy_rows import AlignedColumns, AlignedRows


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


def test_older_tokenizers_are_read_with_the_tokens_that_were_added(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\nwörd\u2028x\n##s\n", encoding="utf-8")
    (tmp_path / "added_tokens.json").write_text('{"<e>": 3}')
    (tmp_path / "special_tokens_map.json").write_text(
        '{"pad_token": "[PAD]", "additional_special_tokens": [{"content": "<e>"}, "<f>"]}'
    )
    assert token_ids(tmp_path) == {"[PAD]": 0, "wörd\u2028x": 1, "##s": 2, "<e>": 3}
    assert special_tokens(tmp_path) == {"[PAD]", "<e>", "<f>"}
    (tmp_path / "bpe.codes").write_text("")  # the same name for a list that numbers no rows
    assert token_ids(tmp_path) is None
    (tmp_path / "vocab.json").write_text('{"a": 1, "b": 0}')
    assert token_ids(tmp_path) == {"a": 1, "b": 0, "<e>": 3}


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
    with pytest.raises(
        CheckpointError, match=r"tokenizer.json: (not a tok|not valid|expected a JSON obj|nested)"
    ):
        token_ids(tmp_path)


def tables(width: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    count = 4 * math.prod(width)
    one = torch.arange(1.0, 1 + count).view(4, *width)
    return one, 100 + torch.arange(count).view(4, *width).to(torch.bfloat16)


@pytest.mark.parametrize("width", [(), (3,), (2, 2)])
def test_rows_are_the_tables_own_then_a_mean_of_donors_then_zeros(width: tuple[int, ...]) -> None:
    one, two = tables(width)
    own = torch.tensor([3, -1, -1, 0, -1])
    donors = ((one, torch.tensor([-1, 2, -1, -1, 1])), (two, torch.tensor([-1, -1, -1, -1, 3])))
    rows = AlignedRows(one, own, donors, 5)
    expected = torch.stack(
        [one[3], one[2], torch.zeros(width), one[0], (one[1] + two[3].float()) / 2]
    )
    assert rows.shape == (5, *width)
    assert torch.equal(rows.gather(0, 5), expected)


@pytest.mark.parametrize("width", [(), (3,), (2, 2)])
def test_padding_rows_are_the_mean_of_the_others(width: tuple[int, ...]) -> None:
    one, two = tables(width)
    own = torch.tensor([3, -1, 0, -1, -1])
    rows = AlignedRows(one, own, ((two, torch.tensor([-1, 1, -1, -1, -1])),), 3)
    found = rows.gather(0, 5)
    mean = torch.stack([one[3], two[1].float(), one[0]]).double().mean(0).float()
    assert torch.equal(found[3], mean)
    assert torch.equal(found[4], mean)
    assert torch.equal(rows.gather(4, 5)[0], mean)


@pytest.mark.parametrize("width", [(), (3,), (2, 2)])
def test_every_slice_is_that_of_the_whole(width: tuple[int, ...]) -> None:
    one, two = tables(width)
    own = torch.tensor([2, -1, 1, -1, 0, -1])
    rows = AlignedRows(one, own, ((two, torch.tensor([-1, 1, -1, 2, -1, -1])),), 5)
    flat = rows.gather(0, 6).reshape(-1)
    for start in range(len(flat) + 1):
        for stop in range(start, len(flat) + 1):
            assert torch.equal(rows.slice(start, stop), flat[start:stop])


def test_every_slice_of_columns_is_that_of_the_rows_turned() -> None:
    one, two = tables((3,))
    own = torch.tensor([2, -1, 1, -1, 0, -1])
    rows = AlignedRows(one, own, ((two, torch.tensor([-1, 1, -1, 2, -1, -1])),), 5)
    columns, flat = AlignedColumns(rows), rows.gather(0, 6).T.reshape(-1)
    assert columns.shape == (3, 6)
    for start in range(len(flat) + 1):
        for stop in range(start, len(flat) + 1):
            assert torch.equal(columns.slice(start, stop), flat[start:stop])


def test_rows_are_float32_and_not_rounded() -> None:
    exact = torch.tensor([[1 + 2**-20]])  # bfloat16 would lose it
    rounded = torch.ones(1, 1, dtype=torch.bfloat16)
    own, donor = torch.tensor([-1, 0]), torch.tensor([0, -1])
    rows = AlignedRows(rounded, own, ((exact, donor),), 2)
    assert rows.slice(0, 2).dtype == torch.float32
    assert rows.slice(0, 2).tolist() == [1 + 2**-20, 1.0]


def test_a_slice_gathers_no_more_rows_than_it_touches() -> None:
    """A vocabulary of a billion rows could not be held."""
    table = torch.zeros(1, 1).expand(10**9, 64)
    own = torch.arange(2000) + 10**9 - 2000
    assert AlignedRows(table, own, (), 2000).slice(100 * 64 + 5, 101 * 64 + 7).shape == (66,)
