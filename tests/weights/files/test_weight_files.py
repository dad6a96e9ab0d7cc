"""Which files of a folder are the model's: as Transformers chooses them, or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.errors import CheckpointError
from evomerge.weights.checkpoint import Checkpoint

INDEX = "model.safetensors.index.json"


@pytest.fixture
def sharded(tiny: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny(sharded=True), tmp_path / "sharded"))


@pytest.fixture
def whole(tiny: Callable[..., Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny(), tmp_path / "whole"))


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def change_index(folder: Path, change: Callable[[dict[str, str]], Any]) -> None:
    content = json.loads((folder / INDEX).read_text())
    change(content["weight_map"])
    (folder / INDEX).write_text(json.dumps(content))


@pytest.mark.parametrize(
    "stray",
    [
        *("optimizer.safetensors", "training_state.safetensors", "consolidated.safetensors"),
        *("adapter_model.safetensors", "a.safetensors", "model-00001-of-00002.safetensors"),
    ],
)
@pytest.mark.parametrize("model", ["whole", "sharded"])
def test_a_file_that_is_not_the_models_is_left_out_and_noted(
    stray: str, model: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(model)
    before = Checkpoint(folder)
    assert before.note is None
    save_file({"exp_avg": torch.ones(3)}, folder / stray)
    found = Checkpoint(folder)
    assert found.tensors == before.tensors
    files = sorted({info.file.name for info in found.tensors.values()})
    named = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
    assert found.note == f"{stray} in {folder}: not read, the model's weights are in {named}."


@pytest.mark.parametrize(
    ("beside", "noted"),
    [
        (["pytorch_model.bin", "training_args.bin", "optimizer.pt"], "pytorch_model.bin"),
        (["consolidated.00.pth", "vocabulary.bin", "rng_state_0.pth"], "consolidated.00.pth"),
        (["training_args.bin", "scheduler.pt", "vocabulary.bin"], None),
    ],
)
def test_pickled_weights_beside_safetensors_are_noted_and_what_a_trainer_leaves_is_not(
    beside: list[str], noted: str | None, whole: Path
) -> None:
    for name in beside:
        (whole / name).write_bytes(b"")
    named = "not read, the model's weights are in model.safetensors."
    assert Checkpoint(whole).note == (None if noted is None else f"{noted} in {whole}: {named}")


@pytest.mark.parametrize("index", [True, False])
def test_a_lost_shard_is_refused(sharded: Path, index: bool) -> None:
    files = shards(sharded)
    if not index:
        (sharded / INDEX).unlink()
        assert Checkpoint(sharded).note is None  # a complete set needs none
    lost = load_file(files[1]).keys()
    files[1].unlink()
    with pytest.raises(CheckpointError) as error:
        Checkpoint(sharded)
    if index:
        assert f"{files[1]}: named in {INDEX} but missing, with " in str(error.value)
        assert all(name in str(error.value) for name in sorted(lost)[:1])
        assert Checkpoint(sharded, sorted(lost)).tensors.keys().isdisjoint(lost)
    else:
        assert str(error.value) == (
            f"{sharded}: {files[0].name} is one of {len(files)} files, of which 1 are missing. "
            "Copy the model again."
        )
        assert Checkpoint(sharded, ["*"]).tensors.keys().isdisjoint(lost)


def test_an_index_that_forgets_a_shard_is_refused(sharded: Path) -> None:
    files = shards(sharded)

    def forget(weight_map: dict[str, str]) -> None:
        for name in [n for n, file in weight_map.items() if file == files[2].name]:
            del weight_map[name]

    change_index(sharded, forget)
    with pytest.raises(CheckpointError, match=rf"{INDEX}: .*of which 1 are missing in it"):
        Checkpoint(sharded)


def test_an_index_that_forgets_a_tensor_of_its_files_is_refused(sharded: Path) -> None:
    change_index(sharded, lambda weight_map: weight_map.pop("model.norm.weight"))
    with pytest.raises(CheckpointError, match=r"holds tensor model.norm.weight, which the index l"):
        Checkpoint(sharded)
    assert "model.norm.weight" in Checkpoint(sharded, ["model.norm.*"]).tensors


def test_an_index_that_names_what_is_nowhere_is_refused(sharded: Path) -> None:
    last = shards(sharded)[-1].name
    change_index(sharded, lambda weight_map: weight_map.update(gone=last))
    with pytest.raises(CheckpointError, match=r"lacks tensor gone, which the index says it has"):
        Checkpoint(sharded)
    assert "gone" not in Checkpoint(sharded, ["gone"]).tensors


def test_files_of_a_transformers_model_that_nothing_tells_apart_are_refused(whole: Path) -> None:
    (whole / "model.safetensors").rename(whole / "weights.safetensors")
    assert len(Checkpoint(whole).tensors) == 30
    save_file({"exp_avg": torch.ones(3)}, whole / "optimizer.safetensors")
    with pytest.raises(CheckpointError) as error:
        Checkpoint(whole)
    assert str(error.value) == (
        f"{whole}: holds optimizer.safetensors, weights.safetensors, and neither model.safetensors "
        "nor an index says which is the model. Call it model.safetensors, or move the others away."
    )


def test_a_folder_of_the_users_own_is_one_model_and_says_of_which_files(tmp_path: Path) -> None:
    save_file({"one": torch.ones(3)}, tmp_path / "a.safetensors")
    assert Checkpoint(tmp_path).note is None
    save_file({"two": torch.ones(3)}, tmp_path / "b.safetensors")
    found = Checkpoint(tmp_path)
    assert list(found.tensors) == ["one", "two"]
    assert found.note == f"a.safetensors, b.safetensors in {tmp_path}: read together, as one model."


def test_two_sets_are_refused_unless_one_has_the_usual_name(tmp_path: Path) -> None:
    for stem in ("a", "b"):
        save_file({stem: torch.ones(3)}, tmp_path / f"{stem}-1-of-1.safetensors")
    with pytest.raises(CheckpointError, match=r"holds the sets of a-1-of-1.safetensors, b-1-of-1"):
        Checkpoint(tmp_path)
    save_file({"c": torch.ones(3)}, tmp_path / "model-1-of-1.safetensors")
    assert list(Checkpoint(tmp_path).tensors) == ["c"]


def test_a_link_that_leads_nowhere_is_no_missing_file(whole: Path) -> None:
    """Without its config a model would count as a module of the user's own."""
    (whole / "config.json").unlink()
    (whole / "config.json").symlink_to("elsewhere")
    with pytest.raises(CheckpointError, match=r"config.json: cannot be read: No such file"):
        Checkpoint(whole)
