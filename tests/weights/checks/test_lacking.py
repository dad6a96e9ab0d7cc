"""Tensors that some models lack: what is refused, and what is only a note."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evomerge.errors import PlanError
from evomerge.weights.library import Library

Tiny = Callable[..., Path]
Changed = Callable[..., Path]
NORM, HEAD, EMBEDDING = "model.norm.weight", "lm_head.weight", "model.embed_tokens.weight"


def drop(*names: str) -> Callable[[dict[str, Tensor]], Any]:
    return lambda tensors: [tensors.pop(name) for name in names]


def rename(name: str, new: str) -> Callable[[dict[str, Tensor]], Any]:
    return lambda tensors: tensors.update({new: tensors.pop(name)})


def put(name: str, value: Tensor) -> Callable[[dict[str, Tensor]], Any]:
    return lambda tensors: tensors.update({name: value})


def problems(base: Path, source: Path, *allowed: str) -> list[str]:
    try:
        models = Library().open(str(base), {"a": str(source)}, allow_missing=allowed)
    except PlanError as error:
        return list(error.problems)
    return [f"note: {note}" for note in models.notes]


@pytest.mark.parametrize("name", [NORM, HEAD, EMBEDDING, "model.layers.2.mlp.up_proj.weight"])
@pytest.mark.parametrize("where", ["base", "a"])
def test_a_tensor_that_a_model_needs_and_lacks_is_refused(
    tiny: Tiny, changed: Changed, name: str, where: str
) -> None:
    folders = {"base": tiny(), "a": tiny(1)}
    folders[where] = changed(folders[where], drop(name), tie_word_embeddings=False)
    other = "a" if where == "base" else "base"
    pattern = name.replace(".2.", ".*.")
    assert problems(folders["base"], folders["a"]) == [
        f"{where}: lacks 1 tensor that {other} has: {name}. Copy the model again, or set "
        f"allow_missing: ['{pattern}'] to merge without."
    ]
    assert any(
        note.startswith(f"note: {where}: lacks 1 tensor that {other} has: {name}; ")
        for note in problems(folders["base"], folders["a"], pattern)
    )


def test_a_misspelt_name_is_refused_with_both_names(tiny: Tiny, changed: Changed) -> None:
    (problem,) = problems(tiny(), changed(tiny(1), rename(NORM, "model.norm.weighu")))
    assert problem.startswith(
        f"a: lacks 1 tensor that base has: {NORM}. It has model.norm.weighu: a misspelt {NORM}?"
    )


def test_a_head_that_is_the_embedding_need_not_be_stored(tiny: Tiny, changed: Changed) -> None:
    """Tied by its config; the merged model is untied where the base is."""
    tied = changed(tiny(1, tied=True))
    assert problems(tiny(), tied) == [
        "note: some models tie embedding and head, some do not: all are untied."
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(4)),
        ("model.rotary_emb.inv_freq", torch.ones(4)),
        ("model.layers.1.attn.masked_bias", torch.tensor(-1e4)),
        ("model.layers.3.of.multi_token_prediction.weight", torch.ones(3)),
        ("optimizer.state", torch.ones(3)),
        ("model.position_ids", torch.arange(4)),
    ],
)
@pytest.mark.parametrize("where", ["base", "a"])
def test_what_no_model_needs_may_be_in_one_of_them(
    tiny: Tiny, changed: Changed, name: str, value: Tensor, where: str
) -> None:
    folders = {"base": tiny(), "a": tiny(1)}
    folders[where] = changed(folders[where], put(name, value))
    (note,) = problems(folders["base"], folders["a"])
    assert note.startswith("note: ")
    assert f"lacks 1 tensor that {where} has: {name}; " in note


def test_a_backbone_has_no_head_and_a_fine_tune_for_another_task_has_its_own(
    tiny: Tiny, changed: Changed
) -> None:
    backbone = changed(tiny(1), drop(HEAD), architectures=["LlamaModel"])
    (note,) = problems(tiny(), backbone)
    assert note == f"note: a: lacks 1 tensor that base has: {HEAD}; it takes no part."

    def with_score(tensors: dict[str, Tensor]) -> None:
        del tensors[HEAD]
        tensors["score.weight"] = torch.ones(2, 32)

    classifier = changed(tiny(1), with_score, architectures=["LlamaForSequenceClassification"])
    lacking, extra = sorted(problems(tiny(), classifier))
    assert lacking == f"note: a: lacks 1 tensor that base has: {HEAD}; it takes no part."
    assert extra.startswith("note: base: lacks 1 tensor that a has: score.weight; ")


def test_biases_that_only_one_model_has_are_refused(tiny: Tiny) -> None:
    (problem,) = problems(tiny(attention_bias=True), tiny(1))
    assert problem.startswith("a: lacks 12 tensors that base has: model.layers.0.self_attn.k_proj")
    assert "allow_missing: ['model.layers.*.self_attn.k_proj.bias', " in problem


def test_what_no_model_has_is_none_of_the_merge(tiny: Tiny, changed: Changed) -> None:
    assert problems(changed(tiny(), drop(NORM)), changed(tiny(1), drop(NORM))) == []


@pytest.mark.parametrize("config", [{"model_type": "unheard_of"}, {"hidden_size": "wide"}])
def test_without_transformers_names_decide(
    tiny: Tiny, changed: Changed, config: dict[str, Any]
) -> None:
    base = changed(tiny(), tie_word_embeddings=False, **config)
    for name in (NORM, EMBEDDING, "model.layers.0.mlp.up_proj.weight"):
        (problem,) = problems(base, changed(tiny(1), drop(name), **config))
        assert f"a: lacks 1 tensor that base has: {name}. Copy" in problem
    untied = {**config, "tie_word_embeddings": False}
    (note,) = problems(base, changed(tiny(1), drop(HEAD), **untied))
    assert note == f"note: a: lacks 1 tensor that base has: {HEAD}; it takes no part."


def test_modules_of_the_users_own_have_the_same_tensors(layers: dict[str, Any], tmp_path: Path,
                                                        changed: Changed) -> None:  # fmt: skip
    base, source = Path(layers["base"]), Path(layers["sources"]["a"])
    (problem,) = problems(base, changed(source, drop("bias")))
    assert problem.startswith("a: lacks 1 tensor that base has: bias. Copy the model again")
    (note,) = problems(base, changed(source, drop("bias")), "b?as")
    assert note == "note: a: lacks 1 tensor that base has: bias; it takes no part."
