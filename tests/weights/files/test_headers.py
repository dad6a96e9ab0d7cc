from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from evomerge.errors import CheckpointError
from evomerge.weights.files.headers import DTYPES, read_header, read_headers

TENSORS = {
    "a.weight": torch.arange(6, dtype=torch.float32).view(2, 3),
    "b.weight": torch.ones(4, dtype=torch.bfloat16),
    "c.flags": torch.tensor([True, False, True]),
    "empty": torch.zeros(0, 5),
    "scalar": torch.tensor(7),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    return path


def raw(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def test_the_header_agrees_with_safetensors(file: Path) -> None:
    found = read_header(file)
    with safe_open(file, framework="pt") as reference:
        assert set(found) == set(reference.keys())
        for name, info in found.items():
            part = reference.get_slice(name)
            assert info.dtype == part.get_dtype()
            assert list(info.shape) == part.get_shape()
    data = file.read_bytes()[8 + int.from_bytes(file.read_bytes()[:8], "little") :]
    info = found["a.weight"]
    assert data[info.start : info.end] == TENSORS["a.weight"].numpy().tobytes()


@pytest.mark.parametrize("code", DTYPES)
def test_every_dtype_has_the_size_that_safetensors_gives_it(code: str, tmp_path: Path) -> None:
    dtype: torch.dtype = getattr(torch, DTYPES[code])
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(3, dtype=torch.uint8).to(dtype)}, path)
    assert read_header(path)["w"].dtype == code


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 60, 300, -1, -9, -40])
def test_a_truncated_file_is_refused(file: Path, kept: int) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:kept])
    with pytest.raises(CheckpointError, match="truncated") as error:
        read_header(file)
    assert str(file) in str(error.value)
    assert str(error.value).endswith("Copy the file again.")


DAMAGED = {
    "not json": raw(b"{garbage"),
    "not utf-8": raw(b'{"\xff": 1}'),
    "not an object": raw(b"[1, 2]"),
    "null": raw(b"null"),
    "nested too deep": raw(b"[" * 100_000),
    "entry is no object": raw({"w": 3}),
    "no dtype": raw({"w": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "dtype is a list": raw(entry(dtype=["F32"]), bytes(4)),
    "shape is text": raw(entry(shape="1"), bytes(4)),
    "fractional shape": raw(entry(shape=[1.0]), bytes(4)),
    "negative shape": raw(entry(shape=[-1, -1]), bytes(4)),
    "boolean shape": raw(entry(shape=[True]), bytes(4)),
    "infinite offset": raw(b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,1e999]}}', bytes(4)),
    "three offsets": raw(entry(offsets=[0, 4, 8]), bytes(4)),
    "more elements than can be counted": raw(entry(shape=[2**63, 0], offsets=[0, 0])),
    "as many, over several lengths": raw(entry(shape=[2**40, 0, 2**40], offsets=[0, 0])),
    "an offset of 5,000 digits": raw(
        json.dumps(entry(offsets=[0, "@"])).encode().replace(b'"@"', b"9" * 5000), bytes(4)
    ),
    "a tensor given twice": raw(json.dumps(entry())[:-1].encode() + b"," + b'"w": 3}', bytes(4)),
    "half a character": raw(json.dumps({"\ud800": entry()["w"]}).encode(), bytes(4)),
    "metadata is no mapping": raw({"__metadata__": 3}),
    "metadata holds numbers": raw({"__metadata__": {"format": 1}}),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_header_is_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(DAMAGED[case])
    with pytest.raises(CheckpointError, match=r"its header is damaged. Copy the file again."):
        read_header(path)


DISAGREEING = {
    "trailing bytes": raw(entry(), bytes(5)),
    "shape too large": raw(entry(shape=[2]), bytes(4)),
    "shape too small": raw(entry(shape=[0]), bytes(4)),
    "offsets turned round": raw(entry(offsets=[4, 0]), bytes(4)),
    "a gap before": raw(entry(offsets=[4, 8]), bytes(8)),
    "two tensors in one place": raw({**entry(), "v": entry()["w"]}, bytes(8)),
}


@pytest.mark.parametrize("case", DISAGREEING)
def test_a_header_that_does_not_fit_the_data_is_refused(tmp_path: Path, case: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(DISAGREEING[case])
    with pytest.raises(CheckpointError, match="header and data disagree"):
        read_header(path)


def test_a_dtype_that_cannot_be_merged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw(entry(dtype="F4", shape=[8]), bytes(4)))
    with pytest.raises(CheckpointError, match="tensor w is stored as F4, which cannot be merged"):
        read_header(path)


def test_an_absurd_header_length_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((2**63).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="the header alone should have 9223372036854775808"):
        read_header(path)


def test_no_flipped_byte_in_a_header_gets_past_unnoticed_or_crashes(file: Path) -> None:
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    rng = random.Random(0)
    refused = 0
    for _ in range(1000):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 1, 1, 2, 5])):
            damaged[rng.randrange(end)] = rng.randrange(256)
        file.write_bytes(damaged)
        try:
            found = read_header(file)
        except CheckpointError:
            refused += 1
            continue
        # accepted: a renamed tensor, or a dtype or shape of the same size; still a whole layout
        assert sum(info.end - info.start for info in found.values()) == len(content) - end
    assert refused > 300


def shards(folder: Path, weight_map: dict[str, Any], files: dict[str, dict[str, Any]]) -> None:
    for name, tensors in files.items():
        save_file(tensors, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_shards_are_read_as_one_model_sorted_by_name(tmp_path: Path) -> None:
    one, two = {"b": torch.zeros(1)}, {"a": torch.zeros(2)}
    shards(tmp_path, {"a": "2.safetensors", "b": "1.safetensors"}, {})
    save_file(one, tmp_path / "1.safetensors")
    save_file(two, tmp_path / "2.safetensors")
    found = read_headers(tmp_path).tensors
    assert list(found) == ["a", "b"]
    assert found["a"].file == tmp_path / "2.safetensors"


def test_all_missing_shards_are_named_at_once(tmp_path: Path) -> None:
    shards(tmp_path, {"a": "1.safetensors", "b": "2.safetensors"}, {})
    with pytest.raises(CheckpointError) as error:
        read_headers(tmp_path)
    assert len(error.value.problems) == 2
    assert "1.safetensors: named in model.safetensors.index.json but missing" in str(error.value)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "..", "sub/x.safetensors"])
def test_an_index_may_not_name_a_file_elsewhere(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "sub").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    save_file({"a": torch.zeros(1)}, folder / "sub" / "x.safetensors")
    shards(folder, {"a": name}, {})
    with pytest.raises(CheckpointError, match="which is not a file beside it"):
        read_headers(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', "[" * 100_000]
)
def test_a_damaged_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match="index"):
        read_headers(tmp_path)


def test_a_tensor_that_the_index_promises_must_be_there(tmp_path: Path) -> None:
    shards(
        tmp_path,
        {"a": "1.safetensors", "gone": "1.safetensors"},
        {"1.safetensors": {"a": torch.zeros(1)}},
    )
    with pytest.raises(CheckpointError, match="lacks tensor gone, which the index says it has"):
        read_headers(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    same = {"a": torch.zeros(1)}
    files = {"1.safetensors": same, "2.safetensors": {**same, "b": torch.zeros(1)}}
    shards(tmp_path, {"a": "1.safetensors", "b": "2.safetensors"}, files)
    with pytest.raises(CheckpointError, match=r"tensor a is also in 1.safetensors"):
        read_headers(tmp_path)


def test_all_damaged_shards_are_named_at_once(tmp_path: Path) -> None:
    shards(tmp_path, {"a": "1.safetensors", "b": "2.safetensors"}, {})
    (tmp_path / "1.safetensors").write_bytes(b"")
    (tmp_path / "2.safetensors").write_bytes(raw(b"nonsense"))
    with pytest.raises(CheckpointError) as error:
        read_headers(tmp_path)
    assert [problem.split(":")[0][-13:] for problem in error.value.problems] == [
        "1.safetensors",
        "2.safetensors",
    ]


def test_one_file_goes_before_an_index_as_in_transformers(file: Path) -> None:
    shards(file.parent, {"a": "1.safetensors"}, {"1.safetensors": {"a": torch.zeros(1)}})
    assert set(read_headers(file.parent).tensors) == set(TENSORS)


def test_pickles_are_not_read_and_the_cure_is_named(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"evomerge convert .* OUT"):
        read_headers(tmp_path)


def test_an_empty_folder_holds_no_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no safetensors files"):
        read_headers(tmp_path)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"model.safetensors: cannot be read"):
        read_headers(tmp_path)
