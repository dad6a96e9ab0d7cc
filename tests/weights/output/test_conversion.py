"""Pickled weights as safetensors: the same tensors, and nothing is run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from evomerge.errors import CheckpointError, InputError
from evomerge.recipes import Recipe
from evomerge.weights.build import build
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.library import Library
from evomerge.weights.output.conversion import convert

Tiny = Callable[..., Path]
Made = Callable[..., Path]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def pickled(model: Path, folder: Path, *, parts: int = 1, **options: Any) -> Path:
    """A copy of a model whose weights are pickles, as Transformers once saved them."""
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    tensors = load_file(model / "model.safetensors")
    names = sorted(tensors)
    if parts == 1:
        torch.save(tensors, folder / "pytorch_model.bin", **options)
        return folder
    files = {n: f"pytorch_model-{k % parts + 1:05}-of-{parts:05}.bin" for k, n in enumerate(names)}
    for file in set(files.values()):
        torch.save({n: tensors[n] for n in names if files[n] == file}, folder / file, **options)
    index = {"metadata": {"total_size": 1}, "weight_map": files}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def weights(folder: Path) -> dict[str, Tensor]:
    return {n: t for f in folder.glob("*.safetensors") for n, t in load_file(f).items()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_converted_model_has_the_same_tensors_and_files(
    tiny: Tiny, tmp_path: Path, parts: int, zipped: bool, dtype: str
) -> None:
    model = tiny(1, dtype=dtype)
    options = {"_use_new_zipfile_serialization": zipped}
    out = convert(str(pickled(model, tmp_path / "bin", parts=parts, **options)), tmp_path / "out")
    assert_equal(weights(out), weights(model))
    assert {file.name for file in out.iterdir()} == {file.name for file in model.iterdir()}
    assert Checkpoint(out).fingerprint == Checkpoint(model).fingerprint


def test_a_large_model_is_written_in_shards(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(str(pickled(tiny(), tmp_path / "bin")), out, shard_bytes=40_000)
    assert len(list(out.glob("model-*.safetensors"))) > 1
    assert_equal({n: Checkpoint(out).read(n) for n in Checkpoint(out).tensors}, weights(tiny()))


def test_tensors_that_share_memory_are_written_each(tiny: Tiny, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = pickled(tiny(1, tied=True), tmp_path / "bin")
    tensors = dict(load_file(tiny(1, tied=True) / "model.safetensors"))
    tensors[HEAD] = tensors[EMBEDDING]
    tensors["whole"] = torch.arange(10.0)
    tensors["part"] = tensors["whole"][2:8:2]
    torch.save(tensors, folder / "pytorch_model.bin")
    out = convert(str(folder), tmp_path / "out")
    assert_equal(weights(out), tensors)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert torch.equal(model.lm_head.weight, tensors[EMBEDDING])
    assert Checkpoint(out).tied


def test_the_refusal_of_a_source_names_the_command_that_works(tiny: Tiny, tmp_path: Path) -> None:
    folder = pickled(tiny(1), tmp_path / "bin files")
    with pytest.raises(CheckpointError) as caught:
        Library().open(str(tiny()), {"a": str(folder)})
    assert str(caught.value) == (
        f"{folder}: holds no safetensors files. Make them of its .bin files, of which nothing is "
        f"run: evomerge convert '{folder}' OUT"
    )
    one = Recipe(
        base=str(tiny()),
        sources={"a": str(convert(str(folder), tmp_path / "converted"))},
        operator="linear",
        dtype="float32",
    )
    assert_equal(weights(build(one, tmp_path / "out")), weights(tiny(1)))


def test_an_adapter_is_converted_too(tiny: Tiny, made: Made, tmp_path: Path) -> None:
    adapter = made(tiny(), 1)
    folder = tmp_path / "bin"
    shutil.copytree(adapter, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(load_file(adapter / "adapter_model.safetensors"), folder / "adapter_model.bin")
    with pytest.raises(
        CheckpointError, match=r"lacks adapter_model\.safetensors\. .* evomerge convert"
    ):
        Library().open(str(tiny()), {"a": str(folder)})
    out = convert(str(folder), tmp_path / "out")
    assert_equal(weights(out), weights(adapter))
    assert Library().open(str(tiny()), {"a": str(out)}).notes == []


def test_a_state_dict_around_the_tensors_is_opened(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    tensors = {"weight": torch.arange(6.0).view(2, 3).T, "steps": torch.tensor(3)}
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "model" / "checkpoint.pt")
    torch.save({"lr": 0.1}, tmp_path / "model" / "optimizer.pt")
    assert_equal(weights(convert(str(tmp_path / "model"), tmp_path / "out")), tensors)


class _Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, zipped: bool) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    content = {"weight": torch.ones(2), "more": _Evil(tmp_path / "owned")}
    file = folder / "pytorch_model.bin"
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        CheckpointError, match=r"holds more than tensors .*, which opening would run"
    ):
        convert(str(folder), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.ones(2), "n": 3}, "'n' cannot be written as safetensors"),
        ({"a": torch.ones(2).to_sparse()}, "'a' cannot be written as safetensors"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "'a' cannot be written as safetensors"),
        ([torch.ones(2)], "expected tensors by name, got list"),
        ({}, "expected tensors by name, got dict"),
    ],
)
def test_what_is_no_weights_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "model").mkdir()
    torch.save(content, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=message):
        convert(str(tmp_path / "model"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "folder"])
def test_a_damaged_file_is_refused(tiny: Tiny, tmp_path: Path, damage: str) -> None:
    folder = pickled(tiny(), tmp_path / "bin")
    file = folder / "pytorch_model.bin"
    whole = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    else:
        file.write_bytes({"cut": whole[:5000], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin: (cannot be read|holds more)"):
        convert(str(folder), tmp_path / "out")


def test_a_part_that_is_missing_is_named(tiny: Tiny, tmp_path: Path) -> None:
    folder = pickled(tiny(), tmp_path / "bin", parts=3)
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(CheckpointError, match=r"names .*00002-of-00003\.bin', which is not"):
        convert(str(folder), tmp_path / "out")
    (folder / "pytorch_model.bin.index.json").unlink()
    with pytest.raises(CheckpointError, match=r"expected pytorch_model\.bin, its index"):
        convert(str(folder), tmp_path / "out")


def test_parts_need_no_index(tiny: Tiny, tmp_path: Path) -> None:
    folder = pickled(tiny(), tmp_path / "bin", parts=3)
    (folder / "pytorch_model.bin.index.json").unlink()
    assert_equal(weights(convert(str(folder), tmp_path / "out")), weights(tiny()))


def test_a_folder_that_is_taken_is_left_alone(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(InputError, match="exists already"):
        convert(str(pickled(tiny(), tmp_path / "bin")), tmp_path / "out")


def test_the_command_makes_the_folder(tiny: Tiny, tmp_path: Path, cli: Callable[..., Any]) -> None:
    folder = pickled(tiny(), tmp_path / "bin")
    done = cli("convert", folder, tmp_path / "out")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'out'}\n")
    assert cli("convert", tiny(), tmp_path / "again").returncode == 2
