"""Reading a folder of statistics."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from evomerge.errors import CheckpointError
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.output.writer import Spec, write_weights
from evomerge.weights.statistics import Manifest, open_statistics

Tiny = Callable[..., Path]
TENSORS = {"a": torch.eye(3), "b": torch.arange(2.0)}


def folder(path: Path, fingerprint: str = "f", **keys: Any) -> Path:
    path.mkdir(exist_ok=True)
    save_file(TENSORS, path / "statistics.safetensors")
    manifest = Manifest(
        evomerge="0",
        kind="gram",
        model="org/model",
        fingerprint=fingerprint,
        data={"text": "x.txt"},
        data_digest="d",
        examples=1,
        tokens=2,
        max_length=3,
        seed=0,
    )
    (path / "manifest.json").write_text(json.dumps(manifest.model_dump() | keys))
    return path


def test_every_tensor_is_found_by_its_name_and_by_its_aliases(tmp_path: Path) -> None:
    found = open_statistics(folder(tmp_path, aliases={"c": "a"}), kind="gram")
    assert found.manifest.aliases == {"c": "a"}
    assert found.names == {"a", "b", "c"}
    for name, stored in (("a", "a"), ("b", "b"), ("c", "a")):
        tensor = found.read(name)
        assert tensor is not None
        assert torch.equal(tensor, TENSORS[stored])


def test_a_tensor_without_a_statistic_is_none(tmp_path: Path) -> None:
    found = open_statistics(folder(tmp_path))
    assert found.read("z") is None


def test_shards_read_like_one_file(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "statistics.safetensors").unlink()
    specs = [Spec(name, tuple(t.shape), t.dtype) for name, t in TENSORS.items()]
    write_weights(tmp_path, specs, TENSORS.items(), shard_bytes=1, stem="statistics")
    assert len(list(tmp_path.glob("statistics-*.safetensors"))) == 2
    found = open_statistics(tmp_path).read("b")
    assert found is not None
    assert torch.equal(found, TENSORS["b"])


def test_statistics_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds gram statistics, expected fisher"):
        open_statistics(folder(tmp_path), kind="fisher")


def test_statistics_of_another_model_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    model = Checkpoint(tiny())
    assert open_statistics(folder(tmp_path, model.fingerprint), of=model).manifest.kind == "gram"
    with pytest.raises(CheckpointError, match=r"another model, org/model, whose weights are not"):
        open_statistics(tmp_path, of=Checkpoint(tiny(1)))


def test_both_mistakes_are_reported_at_once(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_statistics(folder(tmp_path), kind="fisher", of=Checkpoint(tiny()))
    assert len(caught.value.problems) == 2


def test_what_is_missing_is_named(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        open_statistics(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"holds no manifest.json"):
        open_statistics(tiny())
    (folder(tmp_path) / "statistics.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no safetensors files"):
        open_statistics(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object, got list"),
        ("{}", "kind: Field required"),
        ("\x00", "not valid JSON"),
    ],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, text: str, reason: str) -> None:
    (folder(tmp_path) / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=reason):
        open_statistics(tmp_path)


def test_a_format_of_the_future_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="format: Input should be 1"):
        open_statistics(folder(tmp_path, format=2))


def test_damaged_numbers_are_refused(tmp_path: Path) -> None:
    file = folder(tmp_path) / "statistics.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        open_statistics(tmp_path)


def test_contents_that_do_not_fit_the_manifest_are_refused(tmp_path: Path) -> None:
    folder(tmp_path, aliases={"c": "z", "b": "a"})
    save_file(
        {"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.ones(1)},
        tmp_path / "statistics.safetensors",
    )
    with pytest.raises(CheckpointError) as caught:
        open_statistics(tmp_path)
    assert len(caught.value.problems) == 3
