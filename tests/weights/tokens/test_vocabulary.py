from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from evomerge.errors import PlanError
from evomerge.kernels.stack import Input
from evomerge.recipes import Recipe
from evomerge.weights.lazy_rows import AlignedRows
from evomerge.weights.library import Library
from evomerge.weights.merge import merge
from evomerge.weights.models import Models

Tiny = Callable[..., Path]
Changed = Callable[..., Path]
EMBEDDING, HEAD, BIAS = "model.embed_tokens.weight", "lm_head.weight", "lm_head.bias"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
WORDS = (*SPECIAL, *(f"w{number}" for number in range(36)))
# b and c know two words that the base does not, b one more; c numbers them otherwise
B = (*WORDS[:30], "both", "more", "only b")
C = (*SPECIAL, "more", "both", *WORDS[20:])


def recipe(tokenizer: Any, operator: str = "linear", /, *, base: Path, **sources: Path) -> Recipe:
    return Recipe.model_validate(
        {
            "base": str(base),
            "sources": {name: str(path) for name, path in sources.items()},
            **{"operator": operator, "dtype": "float32", "tokenizer": tokenizer},
        }
    )


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def whole(values: Input | None) -> Tensor:
    if isinstance(values, Tensor):
        return values.float()
    assert isinstance(values, AlignedRows)
    return values.gather(0, values.shape[0])


def rows(models: Models, name: str = EMBEDDING) -> dict[str, Tensor]:
    """What base and sources bring to a table."""
    slot = next(slot for slot in models.slots if slot.name == name)
    found = {source: whole(models.input(slot, source)) for source in slot.inputs}
    return {"base": whole(models.base_input(slot)), **found}


def three(tiny: Tiny, **keys: Any) -> dict[str, Path]:
    return {"base": tiny(), "b": tiny(1, words=B, **keys), "c": tiny(2, words=C)}


@pytest.mark.parametrize("name", [EMBEDDING, HEAD])
def test_a_union_has_the_bases_rows_then_the_new_tokens_of_the_sources(
    tiny: Tiny, name: str
) -> None:
    folders = three(tiny)
    models = Library().models(recipe("union", **folders))
    assert models.vocabulary is not None
    tokens = [*WORDS, "both", "more", "only b"]
    assert models.vocabulary.tokens == {token: row for row, token in enumerate(tokens)}
    tables = {m: weights(folder)[name] for m, folder in folders.items()}
    own = {"base": WORDS, "b": B, "c": C}
    found = rows(models, name)
    for row, token in enumerate(tokens):
        knowing = [m for m in own if token in own[m]]
        known = {m: tables[m][own[m].index(token)] for m in knowing}
        fill = known.get("base", torch.stack(list(known.values())).sum(0) / len(known))
        for model, table in found.items():
            assert torch.equal(table[row], known.get(model, fill)), (model, token)


def test_a_token_that_the_base_knows_has_no_task_vector_where_it_is_unknown(tiny: Tiny) -> None:
    folders = three(tiny, dtype="bfloat16")
    made = dict(
        merge(
            Library().plan(recipe("union", "task_arithmetic", base=folders["base"], b=folders["b"]))
        )
    )
    base = weights(folders["base"])
    for name in (EMBEDDING, HEAD):
        assert torch.equal(made[name][30:40], base[name][30:40])
        assert not torch.equal(made[name][4:30], base[name][4:30])


def test_a_token_of_one_model_comes_from_it(tiny: Tiny) -> None:
    folders = three(tiny)
    for operator in ("linear", "task_arithmetic", "ties"):
        made = dict(merge(Library().plan(recipe("union", operator, **folders))))
        expected = weights(folders["b"])[EMBEDDING][B.index("only b")]
        torch.testing.assert_close(made[EMBEDDING][42], expected, rtol=0, atol=1e-6)


def test_a_union_of_equal_vocabularies_changes_nothing(tiny: Tiny) -> None:
    models = Library().models(recipe("union", base=tiny(rows=48), a=tiny(1, rows=48)))
    slot = next(slot for slot in models.slots if slot.name == EMBEDDING)
    assert isinstance(models.input(slot, "a"), Tensor)
    assert slot.shape == (48, 32)
    assert models.notes == []


def test_new_tokens_take_the_bases_padding_rows(tiny: Tiny) -> None:
    models = Library().models(recipe("union", base=tiny(rows=42), b=tiny(1, words=B)))
    assert models.vocabulary is not None
    assert models.vocabulary.added == {"both": 40, "more": 41, "only b": 42}
    found = rows(models)
    assert found["base"].shape == (43, 32)
    donor = weights(tiny(1, words=B))[EMBEDDING][30:33]
    assert torch.equal(found["base"][40:], donor)
    assert torch.equal(found["b"][40:], donor)


@pytest.mark.parametrize("operator", ["linear", "task_arithmetic"])
def test_a_sources_vocabulary_orders_the_rows(tiny: Tiny, operator: str) -> None:
    folders = three(tiny, rows=35)
    models = Library().models(recipe("b", operator, **folders))
    found, base = rows(models), weights(folders["base"])[EMBEDDING]
    table = weights(folders["b"])[EMBEDDING]
    assert torch.equal(found["b"], table)
    assert torch.equal(found["base"][:30], base[:30])
    both = weights(folders["c"])[EMBEDDING][C.index("both")]
    assert torch.equal(found["base"][30], (table[30] + both) / 2)
    assert torch.equal(found["base"][32], table[32])  # only b knows it
    assert torch.equal(found["base"][33:], table[33:])  # its padding
    assert torch.equal(found["c"][33:], table[33:])


def test_new_padding_rows_are_the_mean_of_each_models_rows(tiny: Tiny) -> None:
    folders = three(tiny)
    setting = {"source": "union", "pad_to_multiple_of": 16}
    models = Library().models(recipe(setting, **folders))
    plain = rows(Library().models(recipe("union", **folders)))
    for model, table in rows(models).items():
        assert torch.equal(table[:43], plain[model])
        mean = plain[model].double().mean(0).float()
        assert torch.equal(table[43:], mean.expand(5, 32))


@pytest.mark.parametrize("source", ["base", "union"])
def test_rules_for_tokens_come_first(tiny: Tiny, source: str) -> None:
    folders = three(tiny)
    tokens = {
        "w30": {"source": "c"},  # unknown to b
        "both": {"zero": True, "force": True},
        "new": {"source": "b", "token": "only b"},
        "w0": {"source": "b", "token_id": 5, "force": True},
    }
    models = Library().models(recipe({"source": source, "tokens": tokens}, **folders))
    assert models.vocabulary is not None
    ids = models.vocabulary.tokens
    assert list(ids) == [
        *WORDS,
        *(["both", "more", "only b", "new"] if source == "union" else ["both", "new"]),
    ]
    found = rows(models)
    tables = {model: weights(folder)[EMBEDDING] for model, folder in folders.items()}
    assert torch.equal(found["b"][ids["w30"]], tables["c"][C.index("w30")])
    assert torch.equal(found["base"][ids["w30"]], tables["base"][WORDS.index("w30")])
    for table in found.values():
        assert not table[ids["both"]].any()
        assert torch.equal(table[ids["new"]], tables["b"][B.index("only b")])
        assert torch.equal(table[ids["w0"]], tables["b"][5])


def test_rules_that_name_nothing_are_reported_at_once(tiny: Tiny) -> None:
    tokens = {
        "w0": {"source": "b", "token": "nothing"},
        "w1": {"source": "c", "token_id": 1000},
        "w2": {"source": "c"},
    }
    with pytest.raises(PlanError) as error:
        Library().models(recipe({"source": "base", "tokens": tokens}, **three(tiny)))
    assert error.value.problems == (
        "tokenizer.tokens.w0: b has no token 'nothing'. Name one that it has.",
        "tokenizer.tokens.w1: token_id 1000 is beyond the 26 rows of c. Name a row that it has.",
        "tokenizer.tokens.w2: c has no token 'w2'. Name one that it has.",
    )


def test_the_bias_of_a_head_follows(tiny: Tiny, changed: Changed) -> None:
    def add(count: int, start: float) -> Callable[[dict[str, Tensor]], None]:
        return lambda tensors: tensors.update({BIAS: torch.arange(count) + start})

    base = changed(tiny(), add(40, 0.0))
    models = Library().models(
        recipe("union", base=base, b=changed(tiny(1, words=B), add(33, 100.0)))
    )
    found = rows(models, BIAS)
    assert found["b"].tolist() == [*range(100, 130), *range(30, 40), 130, 131, 132]
    assert found["base"].tolist() == [*range(40), 130, 131, 132]
    # a base without the bias gives nothing; rows that no source knows are zero
    bare = Library().models(
        recipe("union", base=tiny(), b=changed(tiny(1, words=B), add(33, 100.0)))
    )
    slot = next(slot for slot in bare.slots if slot.name == BIAS)
    assert bare.base_input(slot) is None
    assert whole(bare.input(slot, "b")).tolist() == [*range(100, 130), *[0] * 10, 130, 131, 132]


def test_tied_heads_are_aligned_like_the_embedding(tiny: Tiny) -> None:
    base, b = tiny(tied=True), tiny(1, words=B)
    models = Library().models(recipe("union", base=base, b=b))
    head = rows(models, HEAD)
    assert torch.equal(head["base"][:40], weights(base)[EMBEDDING])
    assert torch.equal(head["base"][40:], weights(b)[HEAD][30:])


def test_a_source_without_tokenizer_has_the_bases(tiny: Tiny, changed: Changed) -> None:
    bare = changed(tiny(1))
    (bare / "tokenizer.json").unlink()
    models = Library().models(recipe("union", base=tiny(), a=bare, b=tiny(2, words=B)))
    assert torch.equal(rows(models)["a"][:40], weights(tiny(1))[EMBEDDING])
    with pytest.raises(PlanError, match=r"tokenizer: a: .*has no tokenizer.json. Save one"):
        Library().models(recipe("a", base=tiny(), a=bare))


def test_a_model_under_two_names_counts_once(tiny: Tiny) -> None:
    folders = three(tiny)
    one = rows(Library().models(recipe("union", **folders)))
    two = rows(Library().models(recipe("union", **folders, again=folders["b"])))
    assert torch.equal(one["base"], two["base"])


def test_a_tokenizer_with_gaps_cannot_grow(tiny: Tiny, changed: Changed) -> None:
    holed = changed(tiny())
    path = holed / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["w35"] = 50
    path.write_text(json.dumps(content))
    with pytest.raises(PlanError, match="the ids of its tokens have gaps"):
        Library().models(recipe("union", base=holed, b=tiny(1, words=B)))


def test_a_selection_keeps_the_whole_vocabulary(tiny: Tiny) -> None:
    folders = three(tiny)
    everything = Library().models(recipe("union", **folders))
    chosen = everything.select({"other": str(folders["c"]), "base again": str(folders["base"])})
    whole_rows, found = rows(everything), rows(chosen)
    assert torch.equal(found["other"], whole_rows["c"])
    assert torch.equal(found["base again"], whole_rows["base"])


def test_slices_and_a_union_go_together(tiny: Tiny) -> None:
    """The embedding of the first slice has the rows of tokens that only the last one knows."""
    folders = three(tiny)
    sliced = recipe("union", **folders).model_copy(
        update={"slices": ({"c": (0, 2)}, {"b": (1, 3)})}
    )
    made = dict(merge(Library().plan(sliced)))
    assert torch.equal(made[EMBEDDING][42], weights(folders["b"])[EMBEDDING][32])
    assert torch.equal(made[HEAD][:30], weights(folders["b"])[HEAD][:30])
    assert torch.equal(made[EMBEDDING][41], weights(folders["c"])[EMBEDDING][4])


def test_a_table_outside_the_modules_has_the_bases_rows_in_the_new_order(tiny: Tiny) -> None:
    folders = three(tiny)
    partial = recipe("b", **folders).model_copy(update={"modules": ("model.layers",)})
    made, base = dict(merge(Library().plan(partial))), weights(folders["base"])
    assert torch.equal(made[EMBEDDING][:30], base[EMBEDDING][:30])
    assert torch.equal(made[HEAD], rows(Library().models(recipe("b", **folders)), HEAD)["base"])
