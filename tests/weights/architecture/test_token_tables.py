"""Tensors and settings that have the length of the vocabulary follow it, in whatever family."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_configs import VOCABULARY, tiny_config

from evomerge.errors import PlanError
from evomerge.recipes import Recipe
from evomerge.weights.architecture.token_tables import resized
from evomerge.weights.build import build
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.library import Library

WORDS = ("<unk>", *(f"w{number}" for number in range(VOCABULARY - 1)))
OTHER = ("<unk>", "new", *WORDS[2:-1], "newer")


def make(folder: Path, family: str, auto: str, words: tuple[str, ...], **keys: Any) -> Path:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    with torch.random.fork_rng():
        torch.manual_seed(len(words[1]))
        model = getattr(transformers, auto).from_config(tiny_config(family, **keys))
        for parameter in model.parameters():
            parameter.data = torch.randn(parameter.shape)
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias = torch.randn(model.final_logits_bias.shape)
        model.save_pretrained(folder)
    vocabulary = {word: row for row, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def recipe(base: Path, source: Path) -> Recipe:
    return Recipe.model_validate(
        {
            **{"base": str(base), "sources": {"a": str(base), "b": str(source)}},
            **{"operator": "linear", "parameters": {"weight": 0.5}},
            **{"dtype": "float32", "tokenizer": "union"},
        }
    )


@pytest.mark.parametrize(
    ("family", "auto", "tables", "counted"),
    [
        ("bart", "AutoModelForSeq2SeqLM", {"final_logits_bias": (1, 42)}, ("vocab_size",)),
        ("modernbert", "AutoModelForMaskedLM", {"decoder.bias": (42,)}, ("vocab_size",)),
        (
            *("mobilebert", "AutoModelForMaskedLM"),
            *({"cls.predictions.dense.weight": (16, 42)}, ("vocab_size",)),
        ),
        ("distilbert", "AutoModelForMaskedLM", {"vocab_projector.bias": (42,)}, ("vocab_size",)),
        (
            "gemma4_text",
            "AutoModelForCausalLM",
            {"model.embed_tokens_per_layer.weight": (42, 4 * 32)},
            ("vocab_size", "vocab_size_per_layer_input"),
        ),
    ],
)
def test_all_tables_follow_a_union(
    family: str,
    auto: str,
    tables: dict[str, tuple[int, ...]],
    counted: tuple[str, ...],
    tmp_path: Path,
) -> None:
    import transformers

    ours = make(tmp_path / "a", family, auto, WORDS)
    theirs = make(tmp_path / "b", family, auto, OTHER)
    out = build(recipe(ours, theirs), tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    assert {config[key] for key in counted} == {VOCABULARY + 2}
    states = [load_file(folder / "model.safetensors") for folder in (ours, theirs, out)]
    for name, shape in tables.items():
        a, b, merged = (state[name] for state in states)
        assert tuple(merged.shape) == shape
        axis = shape.index(42)
        for token, row in {"w5": 6, "w0": 1, "new": 40}.items():
            rows = [
                table.select(axis, words.index(token))
                for table, words in ((a, WORDS), (b, OTHER))
                if token in words
            ]
            assert torch.equal(merged.select(axis, row), torch.stack(rows).mean(0))
    _, info = getattr(transformers, auto).from_pretrained(out, output_loading_info=True)
    assert not any(info.values())


def test_a_matrix_as_tall_as_the_vocabulary_is_no_table(tmp_path: Path) -> None:
    folder = make(tmp_path / "m", "roberta", "AutoModelForMaskedLM", WORDS, hidden_size=VOCABULARY)
    tables = Checkpoint(folder).token_tables
    assert "lm_head.dense.weight" not in tables
    assert {"lm_head.bias", "roberta.embeddings.word_embeddings.weight"} <= tables.keys()


def test_a_matrix_twice_as_tall_as_the_vocabulary_is_no_table(tmp_path: Path) -> None:
    keys = {"hidden_size": 2 * VOCABULARY}
    folder = make(tmp_path / "m", "roberta", "AutoModelForMaskedLM", WORDS, **keys)
    assert "lm_head.dense.weight" not in Checkpoint(folder).token_tables


@pytest.mark.parametrize("words", [OTHER, (*WORDS[:-2], WORDS[-1], WORDS[-2])])
def test_integers_for_every_token_refuse_other_rows_and_name_a_cure_that_works(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    ours, theirs = (
        make(tmp_path / name, "deepseek_v4", "AutoModelForCausalLM", own)
        for name, own in (("a", WORDS), ("b", words))
    )
    other = recipe(ours, theirs).model_copy(update={"tokenizer": "b"})
    with pytest.raises(PlanError, match=r"tid2eid of base has integers for every token.*: base\."):
        Library().plan(other)
    out = build(other.model_copy(update={"tokenizer": "base"}), tmp_path / "out")
    before, after = (load_file(folder / "model.safetensors") for folder in (ours, out))
    name = "model.layers.0.ffn.gate.tid2eid"
    assert torch.equal(after[name], before[name])


def test_keys_that_count_other_things_stay() -> None:
    config = {"vocab_size": 40, "hidden_size": 40, "vision_config": {"vocab_size": 40}}
    nested = {**config, "decoder": {"vocab_size": 40, "vocab_size_per_layer_input": 8}}
    assert resized(nested, 40, 42) == {
        **{"vocab_size": 42, "hidden_size": 40, "vision_config": {"vocab_size": 40}},
        "decoder": {"vocab_size": 42, "vocab_size_per_layer_input": 8},
    }


def test_rows_that_are_no_tokens_refuse_a_union(tmp_path: Path) -> None:
    ours, theirs = (
        make(tmp_path / name, "cpmant", "AutoModelForCausalLM", words)
        for name, words in (("a", WORDS), ("b", OTHER))
    )
    with pytest.raises(PlanError, match="but its config counts vocab_size 40, so that nobody"):
        Library().plan(recipe(ours, theirs))


def test_a_shorter_table_of_tokens_in_another_order_refuses_a_union(tmp_path: Path) -> None:
    keys = {"vocab_size_per_layer_input": 32}
    ours, theirs = (
        make(tmp_path / name, "gemma4_text", "AutoModelForCausalLM", words, **keys)
        for name, words in (("a", WORDS), ("b", OTHER))
    )
    with pytest.raises(PlanError, match="vocab_size_per_layer_input counts 32 tokens and the"):
        Library().plan(recipe(ours, theirs))
    shutil.rmtree(theirs)
    later = make(theirs, "gemma4_text", "AutoModelForCausalLM", (*WORDS[:-1], "new"), **keys)
    assert Library().plan(recipe(ours, later)).models.vocabulary is not None
