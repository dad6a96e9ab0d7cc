from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evomerge.errors import CheckpointError
from evomerge.kernels.passes import all_finite
from evomerge.recipes.places import Place
from evomerge.weights.checkpoint import Checkpoint

Tiny = Callable[..., Path]
UP = "model.layers.1.mlp.up_proj.weight"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.mark.parametrize("sharded", [False, True])
def test_every_tensor_reads_as_safetensors_reads_it(tiny: Tiny, sharded: bool) -> None:
    folder = tiny(sharded=sharded, dtype="bfloat16")
    checkpoint = Checkpoint(folder)
    expected: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        expected |= load_file(file)
    assert list(checkpoint.tensors) == sorted(expected)
    for name, tensor in expected.items():
        assert torch.equal(checkpoint.read(name), tensor)
    assert checkpoint.parameter_count == sum(t.numel() for t in expected.values())


def test_what_a_checkpoint_says_of_itself(tiny: Tiny) -> None:
    checkpoint = Checkpoint(tiny())
    assert checkpoint.layers == 3
    assert checkpoint.places[UP] == Place(1, "mlp")
    assert (checkpoint.embedding, checkpoint.head) == (EMBEDDING, HEAD)
    assert checkpoint.token_tables == {EMBEDDING: 0, HEAD: 0}
    assert checkpoint.vocabulary is not None
    assert checkpoint.vocabulary["w0"] == 4
    assert Checkpoint(tiny(tied=True)).head is None


def test_positions_are_no_tokens_even_where_there_are_more_of_them(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_layer": 1}')
    tensors = {
        "wte.weight": torch.zeros(8, 2),
        "wpe.weight": torch.zeros(64, 2),
        "h.0.attn.c_proj.weight": torch.zeros(8, 2),
        "lm_head.bias": torch.zeros(8),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.embedding == "wte.weight"
    assert checkpoint.token_tables == {"wte.weight": 0, "lm_head.bias": 0}
    assert checkpoint.tied


@pytest.mark.parametrize(
    ("head", "config", "expected"),
    [
        (None, {"tie_word_embeddings": True}, True),
        (None, {"tie_word_embeddings": ...}, True),  # Gemma and GPT-2 do not write the default
        (None, {"tie_word_embeddings": ..., "text_config": {"tie_word_embeddings": True}}, True),
        (None, {"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": True}}, True),
        (None, {"tie_word_embeddings": ..., "text_config": None}, True),
        ("own", {"tie_word_embeddings": False}, False),
        ("own", {"tie_word_embeddings": ...}, False),
        ("own", {"tie_word_embeddings": True}, False),  # Transformers does not tie these either
        ("same", {"tie_word_embeddings": True}, True),
        ("same", {"tie_word_embeddings": ...}, True),
        ("same", {"tie_word_embeddings": False}, False),
    ],
)
def test_tied_by_config_and_by_what_is_stored(
    tiny: Tiny,
    changed: Callable[..., Path],
    head: str | None,
    config: dict[str, Any],
    expected: bool,
) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        if head is not None:
            tensors[HEAD] = tensors[EMBEDDING].clone()
            tensors[HEAD][-1, -1] += head == "own"

    assert Checkpoint(changed(tiny(tied=True), change, **config)).tied is expected


def test_a_classifier_is_no_head(tiny: Tiny, changed: Callable[..., Path]) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["score.weight"] = torch.zeros(2, 32)

    checkpoint = Checkpoint(changed(tiny(tied=True), change))
    assert checkpoint.tied
    assert checkpoint.head is None


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: no such folder"):
        Checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("with_config", [False, True])
def test_an_adapter_is_not_taken_for_a_model(tmp_path: Path, with_config: bool) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file({"lora_A.weight": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    if with_config:
        (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"holds an adapter, not a model. Name it as a source"
    ):
        Checkpoint(tmp_path)


def test_a_folder_with_neither_config_nor_weights_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds neither config.json nor safetensors files"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("config", [None, {}, {"hidden": 256}])
def test_weights_without_a_config_of_transformers_have_no_blocks(
    tmp_path: Path, config: dict[str, Any] | None
) -> None:
    tensors = {"layers.0.attn.weight": torch.ones(2, 2), "layers.1.mlp.weight": torch.ones(2)}
    save_file(tensors, tmp_path / "model.safetensors")
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    found = Checkpoint(tmp_path)
    assert found.config == (config or {})
    assert found.layers == 0
    assert set(found.places.values()) == {(None, "other")}


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000, "\xff"])
def test_a_damaged_config_is_refused(tiny: Tiny, tmp_path: Path, text: str) -> None:
    shutil.copy(tiny() / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(
        CheckpointError, match=r"config.json: (not valid JSON|expected a JSON obj|nested|cannot)"
    ):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([float("nan")], "1 NaN and 0 infinite values"),
        ([float("inf"), float("-inf")], "0 NaN and 2 infinite values"),
        ([float("nan"), float("inf"), float("nan")], "2 NaN and 1 infinite values"),
    ],
)
def test_non_finite_weights_are_named_with_file_and_tensor(
    tiny: Tiny, changed: Callable[..., Path], dtype: str, values: list[float], said: str
) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[UP][3, : len(values)] = torch.tensor(values)

    folder = changed(tiny(dtype=dtype), change)
    assert Checkpoint(folder).non_finite() == [
        f"{folder / 'model.safetensors'}: tensor {UP} holds {said}. "
        "Drop this model or repair the file."
    ]


def test_finite_weights_are_not_complained_about(tiny: Tiny) -> None:
    assert Checkpoint(tiny(dtype="float16")).non_finite() == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_all_finite_is_right_at_the_extremes(dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    fine = torch.tensor([limits.max, limits.min, limits.tiny, 0.0, -0.0], dtype=dtype).repeat(1000)
    assert all_finite(fine)
    assert all_finite(torch.empty(0, dtype=dtype))
    for bad in ("nan", "inf", "-inf"):
        spoiled = fine.clone()
        spoiled[4321] = float(bad)
        assert not all_finite(spoiled)


def test_the_fingerprint_depends_on_weights_alone(tiny: Tiny, changed: Callable[..., Path]) -> None:
    fingerprint = Checkpoint(tiny()).fingerprint
    assert Checkpoint(changed(tiny())).fingerprint == fingerprint
    assert Checkpoint(tiny(sharded=True)).fingerprint == fingerprint
    assert Checkpoint(tiny(1)).fingerprint != fingerprint
    assert Checkpoint(tiny(dtype="bfloat16")).fingerprint != fingerprint


@pytest.mark.parametrize("position", [0, 31, -1])
def test_one_changed_bit_changes_the_fingerprint(
    tiny: Tiny, changed: Callable[..., Path], position: int
) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["model.norm.weight"].view(torch.int32)[position] ^= 1

    assert Checkpoint(changed(tiny(), change)).fingerprint != Checkpoint(tiny()).fingerprint


def test_a_renamed_tensor_changes_the_fingerprint(tiny: Tiny, changed: Callable[..., Path]) -> None:
    def swap(tensors: dict[str, Tensor]) -> None:
        one, two = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.gate_proj.weight"
        tensors[one], tensors[two] = tensors[two], tensors[one]

    assert Checkpoint(changed(tiny(), swap)).fingerprint != Checkpoint(tiny()).fingerprint


def test_a_large_tensor_is_sampled_from_its_first_to_its_last_byte(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    prints = set()
    for position in (None, 0, -1):
        tensor = torch.zeros(1 << 18)
        if position is not None:
            tensor[position] = 1
        save_file({"w": tensor}, tmp_path / "model.safetensors")
        prints.add(Checkpoint(tmp_path).fingerprint)
    assert len(prints) == 3


def test_a_bit_between_two_samples_of_a_large_tensor_goes_unnoticed(tmp_path: Path) -> None:
    """The limit that the docstring of `Checkpoint.fingerprint` states."""
    (tmp_path / "config.json").write_text("{}")
    prints = set()
    for value in (0.0, 1.0):
        tensor = torch.zeros(1 << 20)
        tensor[5_000] = value
        save_file({"w": tensor}, tmp_path / "model.safetensors")
        prints.add(Checkpoint(tmp_path).fingerprint)
    assert len(prints) == 1


def test_a_file_that_vanishes_after_opening_is_named(tiny: Tiny, tmp_path: Path) -> None:
    shutil.copytree(tiny(), tmp_path / "model")
    checkpoint = Checkpoint(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors: cannot be read"):
        checkpoint.read(UP)


def test_planning_facts_come_from_headers_alone(tmp_path: Path) -> None:
    """A 7B-shaped file whose weights are a hole: 14 GB that nobody could read in time."""
    folder = fake_7b(tmp_path)
    checkpoint = Checkpoint(folder)
    assert checkpoint.layers == 32
    assert checkpoint.parameter_count == 6_738_415_616
    assert (folder / "model.safetensors").stat().st_blocks * 512 < 1_000_000


def fake_7b(folder: Path) -> Path:
    width, hidden, words, layers = 4096, 11008, 32000, 32
    shapes: dict[str, list[int]] = {
        **{EMBEDDING: [words, width], HEAD: [words, width], "model.norm.weight": [width]},
        **{
            f"model.layers.{layer}.{module}.weight": shape
            for layer in range(layers)
            for module, shape in {
                **{f"self_attn.{m}_proj": [width, width] for m in "qkvo"},
                **{f"mlp.{m}_proj": [hidden, width] for m in ("gate", "up")},
                "mlp.down_proj": [width, hidden],
                **{f"{m}_layernorm": [width] for m in ("input", "post_attention")},
            }.items()
        },
    }
    header: dict[str, Any] = {}
    position = 0
    for name, shape in sorted(shapes.items()):
        size = 2 * torch.Size(shape).numel()
        offsets = [position, position + size]
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": offsets}
        position += size
    raw = json.dumps(header).encode()
    config = {"model_type": "llama", "num_hidden_layers": layers, "tie_word_embeddings": False}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + position)
    return folder
