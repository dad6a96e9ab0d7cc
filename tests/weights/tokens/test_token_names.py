"""Models whose tokenizers differ, merged row by row: what is refused, and what is a note."""

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
from evomerge.recipes import Recipe
from evomerge.weights.build import build
from evomerge.weights.library import Library
from evomerge.weights.merge import merge
from evomerge.weights.models import Models
from evomerge.weights.tokens.token_names import is_spare

Tiny = Callable[..., Path]
Changed = Callable[..., Path]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
WORDS = (*SPECIAL, *(f"w{number}" for number in range(36)))
SPARE = "<|reserved_special_token_{}|>"
RESERVED = (*WORDS[:38], SPARE.format(0), SPARE.format(1))
START, END = "<|im_start|>", "<|im_end|>"
KEPT = "The merged model keeps the base's tokenizer."


def tokens(folder: Path, *added: tuple[int, str], special: bool = True) -> Path:
    """Give rows other names, as a fine-tune does that adds tokens; a name in use moves there."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    for row, token in added:
        gone = [t for t, r in vocabulary.items() if r == row or t == token]
        for old in gone:
            del vocabulary[old]
        kept = [item for item in content["added_tokens"] if item["id"] != row]
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        item = {"id": row, "content": token, **flags, "special": special}
        content["added_tokens"] = [*kept, item]
        vocabulary[token] = row
    file.write_text(json.dumps(content))
    return folder


def opened(base: Path, **sources: Path) -> Models:
    return Library().open(str(base), {name: str(path) for name, path in sources.items()})


def refusal(base: Path, **sources: Path) -> tuple[str, ...]:
    with pytest.raises(PlanError) as error:
        opened(base, **sources)
    return error.value.problems


def merged(operator: str, base: Path, parameters: dict[str, Any], **sources: Path) -> Any:
    recipe = Recipe(
        base=str(base),
        sources={name: str(path) for name, path in sources.items()},
        operator=operator,
        parameters=parameters,
        dtype="float32",
    )
    return dict(merge(Library().plan(recipe)))


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


# What does no harm


def test_special_tokens_renamed_in_place_are_merged_by_row(tiny: Tiny, changed: Changed) -> None:
    base = tiny(words=RESERVED)
    chat = tokens(changed(tiny(1, words=RESERVED)), (38, START), (39, END))
    assert opened(base, chat=chat).notes == [
        f"chat: 2 tokens renamed in place: row 38 is {START!r}, the base's {RESERVED[38]!r}; "
        f"row 39 is {END!r}, the base's {RESERVED[39]!r}. {KEPT}"
    ]
    found = merged("linear", base, {"weight": {"chat": 1}}, chat=chat)
    for name in (EMBEDDING, HEAD):
        assert torch.equal(found[name], weights(chat)[name])


@pytest.mark.parametrize("special", [True, False])
def test_a_token_in_place_of_a_spare_one_need_not_be_special(
    tiny: Tiny, changed: Changed, special: bool
) -> None:
    chat = tokens(changed(tiny(1, words=RESERVED)), (38, START), special=special)
    assert "1 token renamed in place" in opened(tiny(words=RESERVED), chat=chat).notes[0]


def test_one_special_token_in_place_of_another_is_renamed(tiny: Tiny, changed: Changed) -> None:
    chat = tokens(changed(tiny(1)), (2, END))
    assert opened(tiny(), chat=chat).notes == [
        f"chat: 1 token renamed in place: row 2 is {END!r}, the base's '</s>'. {KEPT}"
    ]


def test_tokens_without_a_row_are_a_note(tiny: Tiny, changed: Changed) -> None:
    chat = tokens(changed(tiny(1)), (40, START), (41, END))
    assert opened(tiny(), chat=chat).notes == [
        f"chat: 2 tokens without a row in its embedding: {START!r}; {END!r}. {KEPT}"
    ]
    found = merged("linear", tiny(), {}, chat=chat)
    assert torch.equal(found[EMBEDDING], weights(chat)[EMBEDDING])


def test_rows_that_only_one_model_names_are_merged(tiny: Tiny, changed: Changed) -> None:
    base, chat = tiny(rows=48), tokens(changed(tiny(1, rows=48)), (40, START))
    assert opened(base, chat=chat).notes == [
        f"chat: 1 row that the base has without a token: {START!r} at row 40. {KEPT}"
    ]
    found = merged("task_arithmetic", base, {"weight": 0.5}, chat=chat)[EMBEDDING]
    one, two = weights(base)[EMBEDDING], weights(chat)[EMBEDDING]
    assert torch.equal(found, one + 0.5 * (two - one))
    assert opened(chat, plain=base).notes == [
        f"plain: 1 token of the base not named: {START!r} at row 40. {KEPT}"
    ]


@pytest.mark.parametrize("operator", ["linear", "task_arithmetic", "ties"])
def test_rows_beyond_the_bases_are_left_out(tiny: Tiny, operator: str) -> None:
    base, chat = tiny(), tiny(1, words=(*WORDS, START, END), rows=44)
    assert opened(base, chat=chat).notes == [
        f"chat: 4 rows beyond the base's 40 left out: {START!r} at row 40; {END!r} at row 41; "
        "tokenizer: union of a recipe (tokenizer_source: union of a mergekit file) would keep "
        f"them. {KEPT}"
    ]
    found = merged(operator, base, {"weight": 1}, chat=chat)
    for name in (EMBEDDING, HEAD):
        source, own = weights(chat)[name][:40], weights(base)[name]
        assert torch.equal(found[name], source if operator == "linear" else own + (source - own))


@pytest.mark.parametrize("tied", [True, False])
def test_rows_that_a_source_lacks_are_the_bases(tiny: Tiny, tied: bool) -> None:
    base = tiny(words=(*WORDS, START, END), tied=tied)
    plain = tiny(1, tied=tied)
    assert opened(base, plain=plain).notes == [
        f"plain: 2 rows of the base's 42 not there: the base's stay. {KEPT}"
    ]
    found = merged("linear", base, {}, plain=plain)[EMBEDDING]
    assert torch.equal(found[:40], weights(plain)[EMBEDDING])
    assert torch.equal(found[40:], weights(base)[EMBEDDING][40:])


def test_rows_of_padding_alone_are_left_out(tiny: Tiny) -> None:
    assert opened(tiny(), a=tiny(1, rows=48)).notes == [
        f"a: 8 rows beyond the base's 40 left out. {KEPT}"
    ]


def test_what_is_built_loads_with_the_bases_tokenizer(tiny: Tiny, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, chat = tiny(), tiny(1, words=(*WORDS, START), rows=48)
    recipe = Recipe(base=str(base), sources={"a": str(chat)}, operator="linear", dtype="float32")
    out = build(recipe, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(out)
    assert tuple(model.get_input_embeddings().weight.shape) == (40, 32)
    assert AutoTokenizer.from_pretrained(out).get_vocab() == {w: n for n, w in enumerate(WORDS)}


def test_one_and_the_same_tokenizer_is_no_note(tiny: Tiny) -> None:
    assert opened(tiny(), a=tiny(1), b=tiny(2)).notes == []


def test_spare_tokens_may_stand_anywhere(tiny: Tiny) -> None:
    shifted = (*WORDS[:36], START, END, SPARE.format(0), SPARE.format(1))
    spare = (*WORDS[:36], *(SPARE.format(n) for n in range(4)))
    (note,) = opened(tiny(words=spare), chat=tiny(1, words=shifted)).notes
    assert "2 tokens renamed in place" in note


@pytest.mark.parametrize(
    "token",
    ["<|reserved_special_token_5|>", "[unused12]", "<unused5>", "<|placeholder1|>", "<SPECIAL_20>",
     "<|dummy_85|>", "[control_8]", "<|extra_0|>", "<reserved_102>", "[PAD151646]"],
)  # fmt: skip
def test_spare_tokens_are_known_by_their_names(token: str) -> None:
    assert is_spare(token)


@pytest.mark.parametrize("token", ["reserved", "Ġunused", "extra", "<pad>", "<|im_start|>", "[5]"])
def test_words_are_not_spare(token: str) -> None:
    assert not is_spare(token)


# What would mix rows

CURE = "Set tokenizer: base (in a mergekit file tokenizer_source: base), or drop this source."


def test_words_in_other_rows_are_refused_and_three_named(tiny: Tiny) -> None:
    other = tiny(1, words=(*SPECIAL, *reversed(WORDS[4:])))
    assert refusal(tiny(), a=other) == (
        "a: its tokenizer numbers tokens differently: 36 tokens stand in other rows, which would "
        "be mixed: 'w35' is row 4 in a, 39 in base; 'w34' is row 5 in a, 38 in base; "
        f"'w33' is row 6 in a, 37 in base; and 33 more. {CURE}",
    )


def test_a_row_of_another_word_is_refused(tiny: Tiny) -> None:
    other = tiny(1, words=(*WORDS[:39], "new"))
    assert refusal(tiny(), a=other) == (
        "a: its tokenizer numbers tokens differently: 1 token stands in other rows, which would "
        f"be mixed: row 39 is 'new' in a, 'w35' in base. {CURE}",
    )


def test_words_in_other_rows_are_refused_at_another_height_too(tiny: Tiny) -> None:
    (problem,) = refusal(tiny(), a=tiny(1, words=(*SPECIAL, "new", *WORDS[4:])))
    assert "36 tokens stand in other rows" in problem


def test_special_tokens_that_change_places_are_refused(tiny: Tiny, changed: Changed) -> None:
    one = tokens(changed(tiny(1, rows=48)), (40, START), (41, END))
    two = tokens(changed(tiny(2, rows=48)), (40, END), (41, START))
    assert "2 tokens stand in other rows" in refusal(one, two=two)[0]
    # the base names neither, so that each of the sources agrees with it
    (problem,) = refusal(tiny(rows=48), one=one, two=two)
    assert f"{START!r} is row 41 in two, 40 in one" in problem
    assert f"{END!r} is row 40 in two, 41 in one" in problem


def test_two_sources_that_rename_a_spare_token_in_two_ways_are_refused(
    tiny: Tiny, changed: Changed
) -> None:
    talks = tokens(changed(tiny(1, words=RESERVED)), (38, START))
    thinks = tokens(changed(tiny(2, words=RESERVED)), (38, "<think>"))
    (problem,) = refusal(tiny(words=RESERVED), talks=talks, thinks=thinks)
    assert f"row 38 is '<think>' in thinks, {START!r} in talks" in problem
    same = tokens(changed(tiny(3, words=RESERVED)), (38, START))
    assert len(opened(tiny(words=RESERVED), talks=talks, same=same).notes) == 2


def test_the_cure_of_a_recipe_works(tiny: Tiny) -> None:
    other = tiny(1, words=(*SPECIAL, *reversed(WORDS[4:])))
    models = Library().open(str(tiny()), {"a": str(other)}, "base")
    assert models.vocabulary is not None
    assert models.vocabulary.by_token


def test_without_a_tokenizer_other_heights_are_refused_and_the_cure_works(
    tiny: Tiny, changed: Changed
) -> None:
    other = changed(tiny(1, rows=48))
    (other / "tokenizer.json").rename(other / "kept")
    (problem,) = refusal(tiny(), a=other)
    assert problem.endswith(
        "Save a tokenizer.json with each model to match its tokens, or drop one source."
    )
    (other / "kept").rename(other / "tokenizer.json")
    assert len(opened(tiny(), a=other).notes) == 1


# Tokenizers of older formats


def older(folder: Path, words: tuple[str, ...]) -> Path:
    """Replace a model's tokenizer.json by the list of words that older tokenizers have."""
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return folder


def test_words_in_other_rows_of_an_older_tokenizer_are_refused_or_matched(
    tiny: Tiny, changed: Changed
) -> None:
    turned = (*SPECIAL, *reversed(WORDS[4:]))
    base, source = older(changed(tiny()), WORDS), older(changed(tiny(1)), turned)
    (problem,) = refusal(base, a=source)
    assert "36 tokens stand in other rows, which would be mixed: 'w35' is row 4 in a" in problem
    models = Library().open(str(base), {"a": str(source)}, "base")
    assert models.vocabulary is not None
    rows = models.vocabulary.rows_of(models.sources["a"])
    assert rows.tolist() == [turned.index(word) for word in WORDS]


def test_a_union_needs_a_tokenizer_to_which_tokens_can_be_added(
    tiny: Tiny, changed: Changed
) -> None:
    base, source = older(changed(tiny()), WORDS), tiny(1, words=(*WORDS, "new"))
    with pytest.raises(PlanError, match=r"has no tokenizer\.json to which tokens could be added"):
        Library().open(str(base), {"a": str(source)}, "union")
    models = Library().open(str(source), {"a": str(base)}, "union")
    assert models.vocabulary is not None
    assert models.vocabulary.rows_of(models.sources["a"]).tolist() == [*range(40), -1]


def test_sentencepiece_models_that_differ_are_a_note(tiny: Tiny, changed: Changed) -> None:
    base, source = changed(tiny()), changed(tiny(1))
    for folder, content in ((base, b"one"), (source, b"two")):
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer.model").write_bytes(content)
    (note,) = opened(base, a=source).notes
    assert note.startswith("a: its tokenizer is another one than the base's, and neither has")
    assert opened(base, a=base).notes == []


def test_words_of_a_model_without_embedding_are_refused_whatever_tokenizer_says(
    tmp_path: Path,
) -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    letters = "<|abcd"
    small = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    small |= {"intermediate_size": 4, "num_conv_pos_embeddings": 2}
    small |= {"num_conv_pos_embedding_groups": 1}
    convolutions = {"conv_dim": (4,), "conv_kernel": (3,), "conv_stride": (2,)}
    keys: dict[str, Any] = {"vocab_size": len(letters), **small, **convolutions}
    model = Wav2Vec2ForCTC(Wav2Vec2Config(**keys))
    for name, spelled in (("base", letters), ("same", letters), ("turned", letters[::-1])):
        model.save_pretrained(tmp_path / name)
        rows = {letter: row for row, letter in enumerate(spelled)}
        (tmp_path / name / "vocab.json").write_text(json.dumps(rows))
    base, same, turned = (str(tmp_path / name) for name in ("base", "same", "turned"))
    for setting in (None, "base"):
        with pytest.raises(PlanError, match=r"'d' is row 0 in a, 5 in base.*Drop this source.$"):
            Library().open(base, {"a": turned}, setting)
        assert Library().open(base, {"a": same}, setting).notes == []
    with pytest.raises(PlanError, match=r"has no embedding whose rows could be matched"):
        Library().open(base, {"a": same}, "union")
