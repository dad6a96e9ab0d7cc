"""Tensors that are one in memory are merged as one, under whichever names files have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from two_layouts import Family, made, saved

from evomerge.recipes import Recipe
from evomerge.weights.build import build
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.library import Library

BERT = Family(
    "BertForMaskedLM",
    "BertConfig",
    {
        **{"vocab_size": 48, "hidden_size": 32, "intermediate_size": 48},
        **{"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64},
    },
)
T5 = Family(
    "T5ForConditionalGeneration",
    "T5Config",
    {
        **{"vocab_size": 48, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2},
        **{"num_heads": 4, "decoder_start_token_id": 0},
    },
)
T5_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
TIED = [(T5, "shared.weight", T5_COPIES), (BERT, "cls.predictions.bias", (".decoder.bias",))]


def half(base: Path, theirs: Path) -> Recipe:
    return Recipe.model_validate(
        {
            **{"base": str(base), "sources": {"mine": str(base), "theirs": str(theirs)}},
            **{"operator": "linear", "parameters": {"weight": 0.5}, "dtype": "float32"},
        }
    )


def opened(base: Path, source: Path) -> Checkpoint:
    return Library().open(str(base), {"source": str(source)}).sources["source"]


def names_in(folder: Path) -> set[str]:
    return set(load_file(folder / "model.safetensors"))


@pytest.mark.parametrize(("family", "original", "copies"), TIED)
@pytest.mark.parametrize("ours", ["original", "all", "copies"])
@pytest.mark.parametrize("theirs", ["original", "all", "copies"])
def test_a_tensor_is_one_under_all_names_that_transformers_ties(
    family: Family, original: str, copies: tuple[str, ...], ours: str, theirs: str, tmp_path: Path
) -> None:
    models = [made(family, seed) for seed in (0, 1)]
    folders: list[Path] = []
    for model, how in zip(models, (ours, theirs), strict=True):
        state = {
            name: tensor
            for name, tensor in model.state_dict().items()
            if how != "original" or not name.endswith(copies)
            if how != "copies" or name != original
        }
        folders.append(saved(model, tmp_path / str(len(folders)), state))
    merged = build(half(*folders), tmp_path / "merged")
    # a head that is the embedding is not written
    heads = {"lm_head.weight", "cls.predictions.decoder.weight"}
    assert names_in(merged) - heads == names_in(folders[0]) - heads
    kind: Any = getattr(transformers, family.model)
    live, report = kind.from_pretrained(merged, output_loading_info=True)
    assert not any(report.values()), report
    first, second = (model.state_dict() for model in models)
    for name, value in live.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(value, 0.5 * first[name] + 0.5 * second[name]), name


def test_copies_with_values_of_their_own_are_not_left_out(tmp_path: Path) -> None:
    models = [made(BERT, seed) for seed in (0, 1)]
    whole = models[1].state_dict()
    own = {**whole, "cls.predictions.decoder.bias": torch.ones(48)}
    state = {n: t for n, t in models[0].state_dict().items() if ".decoder." not in n}
    base, source = saved(models[0], tmp_path / "a", state), saved(models[1], tmp_path / "b", own)
    assert "cls.predictions.decoder.bias" in opened(base, source).tensors
    plain = opened(base, saved(models[1], tmp_path / "c", whole))
    assert "cls.predictions.decoder.bias" not in plain.tensors
    assert plain.note == (
        "cls.predictions.decoder.bias, cls.predictions.decoder.weight: copies of other tensors, "
        "which the base leaves out."
    )


def test_a_head_of_its_own_leaves_tied_what_only_the_same_key_ties(tmp_path: Path) -> None:
    """The head is no embedding, though the config says so, and the bias is stored once."""
    folders = []
    for seed in (0, 1):
        model = made(BERT, seed)
        state = {n: t for n, t in model.state_dict().items() if not n.endswith("decoder.bias")}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            state["cls.predictions.decoder.weight"] = torch.randn(48, 32)
            state["cls.predictions.bias"] = torch.randn(48)
        folders.append(saved(model, tmp_path / str(seed), state))
    states = [load_file(folder / "model.safetensors") for folder in folders]
    out = build(half(*folders), tmp_path / "out")
    model, info = transformers.BertForMaskedLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    found = model.cls.predictions.decoder
    for name, tensor in (("bias", found.bias), ("decoder.weight", found.weight)):
        mine, theirs = (state[f"cls.predictions.{name}"] for state in states)
        assert torch.equal(tensor, 0.5 * mine + 0.5 * theirs)
