from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer, UnigramTrainer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from evomerge.errors import CheckpointError, PlanError
from evomerge.recipes import Recipe
from evomerge.weights.build import build
from evomerge.weights.files.token_ids import token_ids
from evomerge.weights.tokens.tokenizers import TEMPLATES, chosen_template

Tiny = Callable[..., Path]
WORDS = ["<pad>", "<s>", "</s>", "<unk>"]
ENGLISH = ["the cat sat on the mat", "a dog and a cat ran over the hill", "hello world 123"] * 3
FRENCH = ["le chat est sur la table", "un chien et un chat courent", "bonjour le monde 456"] * 3


def byte_pairs(corpus: list[str]) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=300, special_tokens=WORDS, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(corpus, trainer)
    return made


def pieces(corpus: list[str]) -> Tokenizer:
    """Byte pairs as SentencePiece writes them."""
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = BpeTrainer(vocab_size=80, special_tokens=WORDS, show_progress=False)
    made.train_from_iterator(corpus, trainer)
    return made


def unigrams(corpus: list[str]) -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = UnigramTrainer(
        vocab_size=60,
        special_tokens=WORDS,
        unk_token="<unk>",
        show_progress=False,
    )
    made.train_from_iterator(corpus, trainer)
    return made


def words(corpus: list[str]) -> Tokenizer:
    known = sorted({word for text in corpus for word in text.split()})
    ids = {word: row for row, word in enumerate([*WORDS, *known])}
    made = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


KINDS = {"byte pairs": byte_pairs, "pieces": pieces, "unigrams": unigrams, "words": words}


def model(
    tiny: Tiny, folder: Path, seed: int, tokenizer: Tokenizer, special: str = "", **config: Any
) -> Path:
    """A checkpoint with a tokenizer of its own."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        clean_up_tokenization_spaces=False,
    )
    if special:
        fast.add_special_tokens({"additional_special_tokens": [special]})
    shutil.copytree(tiny(seed, rows=len(fast), **config), folder)
    fast.save_pretrained(folder)
    return folder


def recipe(base: Path, *sources: Path, **keys: Any) -> Recipe:
    named = {f"s{number}": str(source) for number, source in enumerate(sources, start=1)}
    settings = {"operator": "linear", "dtype": "float32", **keys}
    return Recipe.model_validate({"base": str(base), "sources": named, **settings})


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, tiny: Tiny, tmp_path: Path) -> tuple[Path, Path]:
    kind = KINDS[request.param]
    one = model(tiny, tmp_path / "one", 0, kind(ENGLISH), "<|base|>")
    return one, model(tiny, tmp_path / "two", 1, kind(FRENCH), "<|special|>")


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return found


def test_a_union_is_a_tokenizer_that_loads_and_whose_ids_are_the_rows(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    base, source = pair
    out = build(recipe(base, source, tokenizer="union"), tmp_path / "out")
    before, other, after = (AutoTokenizer.from_pretrained(f) for f in (base, source, out))
    ids = after.get_vocab()
    ours, theirs = before.get_vocab(), other.get_vocab()
    new = [token for token in sorted(theirs, key=theirs.__getitem__) if token not in ours]
    assert new
    assert ids == ours | {token: len(ours) + number for number, token in enumerate(new)}
    assert config_of(out)["vocab_size"] == len(ids)
    live = AutoModelForCausalLM.from_pretrained(out)
    table = live.get_input_embeddings().weight
    donor = AutoModelForCausalLM.from_pretrained(source).get_input_embeddings().weight
    for token in new:
        assert torch.equal(table[ids[token]], donor[theirs[token]])


def test_old_text_keeps_its_tokens_and_new_tokens_survive_a_round_trip(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    base, source = pair
    out = build(recipe(base, source, tokenizer="union"), tmp_path / "out")
    before, other, after = (AutoTokenizer.from_pretrained(f) for f in (base, source, out))
    new = other.get_vocab().keys() - before.get_vocab().keys()
    for text in ("over the hill", "sat", "hello", "dog and"):
        if not any(token in text for token in new):
            assert after(text).input_ids == before(text).input_ids
    for token in new:
        assert after.get_vocab()[token] in after(f"cat {token}").input_ids
        assert after.convert_ids_to_tokens(after.get_vocab()[token]) == token
    ids = after("chat<|special|>").input_ids
    assert "<|special|>" in after.decode(ids)
    assert "<|special|>" not in after.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("byte pairs", name) for name in ("GPT2Tokenizer", "LlamaTokenizer")),
        *(("pieces", name) for name in ("LlamaTokenizer", "LlamaTokenizerFast")),
    ],
)
def test_tokenizers_with_a_class_of_their_own_know_the_union_too(
    tiny: Tiny, tmp_path: Path, kind: str, name: str, listed: bool
) -> None:
    """They build themselves from scratch, from tokenizer.json or from what its config lists."""
    base = model(tiny, tmp_path / "one", 0, KINDS[kind](ENGLISH))
    source = model(tiny, tmp_path / "two", 1, KINDS[kind](FRENCH), "<|special|>")
    path = base / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": name}
    if listed:
        tokens = json.loads((base / "tokenizer.json").read_text())["added_tokens"]
        config["added_tokens_decoder"] = {str(token.pop("id")): token for token in tokens}
    path.write_text(json.dumps(config))
    out = build(recipe(base, source, tokenizer="union"), tmp_path / "out")
    whole = Tokenizer.from_file(str(out / "tokenizer.json")).get_vocab()
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert type(tokenizer).__name__ == name.removesuffix("Fast")
    assert tokenizer.get_vocab() == whole
    ids = tokenizer("hello<|special|>").input_ids
    assert "<|special|>" not in tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("tokenizer", ["base", "union", "s1"])
def test_generation_runs(pair: tuple[Path, Path], tmp_path: Path, tokenizer: str) -> None:
    out = build(recipe(*pair, tokenizer=tokenizer), tmp_path / "out")
    words = AutoTokenizer.from_pretrained(out)
    live = AutoModelForCausalLM.from_pretrained(out)
    asked = words("le chat", return_tensors="pt").input_ids
    made = live.generate(asked, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert made.shape[1] > asked.shape[1]
    assert live.config.vocab_size == len(words)


@pytest.mark.parametrize("tokenizer", ["base", "s1"])
def test_a_named_tokenizer_is_copied_as_it_is(
    pair: tuple[Path, Path], tmp_path: Path, tokenizer: str
) -> None:
    out = build(recipe(*pair, tokenizer=tokenizer), tmp_path / "out")
    owner = pair[tokenizer == "s1"]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (owner / name).read_bytes()


def test_every_file_of_a_named_tokenizer_is_its_own(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    names = ("emoji.json", "dict.txt", "byte_maps.json", "entity_vocab.json")
    for folder, text in zip(pair, ("{}", '{"1": 2}'), strict=True):
        for name in names[: 1 if folder == pair[1] else None]:
            (folder / name).write_text(text)
    out = build(recipe(*pair, tokenizer="s1"), tmp_path / "out")
    assert [(out / name).exists() for name in names] == [True, False, False, False]
    assert (out / "emoji.json").read_text() == '{"1": 2}'


def test_a_file_of_the_base_that_only_sounds_like_a_tokenizers_is_kept(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    names = ("audio_tokens.json", "token_weights.csv", "detokenize.json")
    for name in names:
        (pair[0] / name).write_text("{}")
    out = build(recipe(*pair, tokenizer="s1"), tmp_path / "out")
    assert all((out / name).exists() for name in names)


def test_ids_in_the_config_follow_a_sources_tokenizer(tiny: Tiny, tmp_path: Path) -> None:
    base = model(tiny, tmp_path / "one", 0, words(ENGLISH))
    turned = words([*FRENCH, "cat"])
    source = model(tiny, tmp_path / "two", 1, turned, eos_token_id=3)
    ids = words(ENGLISH).get_vocab()
    config = config_of(base) | {"image_token_id": ids["cat"]}
    (base / "config.json").write_text(json.dumps(config))
    out = config_of(build(recipe(base, source, tokenizer="s1"), tmp_path / "out"))
    assert out["eos_token_id"] == 3
    assert out["image_token_id"] == turned.get_vocab()["cat"]
    rows = len(turned.get_vocab())
    assert out["vocab_size"] == rows
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == 3


def test_tokens_that_a_recipe_names_are_added(tiny: Tiny, tmp_path: Path) -> None:
    folders = [model(tiny, tmp_path / str(seed), seed, words(ENGLISH)) for seed in (0, 1)]
    setting = {
        "source": "base",
        "tokens": {"<|new|>": {"source": "base", "token": "cat"}},
        "pad_to_multiple_of": 32,
    }
    out = build(recipe(*folders, tokenizer=setting), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(out)
    live = AutoModelForCausalLM.from_pretrained(out)
    table = live.get_input_embeddings().weight
    assert table.shape[0] == live.config.vocab_size == 32
    expected = AutoModelForCausalLM.from_pretrained(folders[0]).get_input_embeddings().weight
    ids = tokenizer.get_vocab()
    assert tokenizer("cat <|new|>").input_ids == [ids["cat"], ids["<|new|>"]]
    assert torch.equal(table[ids["<|new|>"]], expected[ids["cat"]])


def test_older_files_that_would_lack_the_new_tokens_are_left_out(
    tiny: Tiny, tmp_path: Path
) -> None:
    base = model(tiny, tmp_path / "one", 0, words(ENGLISH))
    source = model(tiny, tmp_path / "two", 1, words(FRENCH))
    for name in ("tokenizer.model", "vocab.json", "added_tokens.json"):
        (base / name).write_text("{}")
    left = build(recipe(base, source, tokenizer="union"), tmp_path / "union")
    kept = build(recipe(base, source, tokenizer="base"), tmp_path / "base")
    for name in ("tokenizer.model", "vocab.json", "added_tokens.json"):
        assert (kept / name).exists()
        assert not (left / name).exists()


# chat templates

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]


def templated(tiny: Tiny, folder: Path, template: str | None, *, in_config: bool = False) -> Path:
    shutil.copytree(tiny(), folder)
    if template is not None and in_config:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
    elif template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def test_known_formats_are_those_that_recipes_know() -> None:
    from evomerge.recipes._tokenizer import TEMPLATE_NAMES as NAMES

    assert sorted(TEMPLATES) == sorted(NAMES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alpaca", "### Instruction:\nHi\n\n### Response:\nHo\n\n### Response:\n"),
        (
            "chatml",
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
        (
            "exaone",
            "[|system|][|endofturn|]\n[|user|]Hi\n[|assistant|]Ho[|endofturn|]\n[|assistant|]",
        ),
        (
            "llama3",
            "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHo<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("mistral", "<s> [INST] Hi [/INST] Ho</s>"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "HiHo"),
    ],
)
def test_a_named_format_is_what_the_merged_tokenizer_writes(
    tiny: Tiny, tmp_path: Path, name: str, expected: str
) -> None:
    base = templated(tiny, tmp_path / "base", "{{ 'old' }}", in_config=True)
    out = build(recipe(base, tiny(1), chat_template=name), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(out)
    made = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert made == expected
    assert "old" not in (out / "tokenizer_config.json").read_text()


def test_auto_is_the_template_that_most_models_have(tiny: Tiny, tmp_path: Path) -> None:
    one, two = "{{ 'one, of a length' }}", "{{ 'two, of a length' }}"
    base = templated(tiny, tmp_path / "base", one)
    others = [
        templated(tiny, tmp_path / "a", two + "\n"),
        templated(tiny, tmp_path / "b", two, in_config=True),
        templated(tiny, tmp_path / "c", None),
    ]
    out = build(recipe(base, *others, chat_template="auto"), tmp_path / "out")
    assert (out / "chat_template.jinja").read_text() == two
    kept = build(recipe(base, *others), tmp_path / "kept")
    assert (kept / "chat_template.jinja").read_text() == one


def test_auto_without_any_template_writes_none(tiny: Tiny, tmp_path: Path) -> None:
    out = build(recipe(tiny(), tiny(1), chat_template="auto"), tmp_path / "out")
    assert not (out / "chat_template.jinja").exists()


def test_a_template_replaces_all_others(tiny: Tiny, tmp_path: Path) -> None:
    base = templated(tiny, tmp_path / "base", "{{ 'old' }}")
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tools.jinja").write_text("{{ 'tools' }}")
    out = build(recipe(base, tiny(1), chat_template="chatml"), tmp_path / "out")
    assert AutoTokenizer.from_pretrained(out).chat_template == TEMPLATES["chatml"]
    assert not (out / "additional_chat_templates").exists()


def test_a_template_that_is_none_is_refused(tmp_path: Path) -> None:
    assert chosen_template("{% generation %}x{% endgeneration %}", [tmp_path]) is not None
    with pytest.raises(PlanError, match=r"chat_template: not a chat template: .*Repair it\.$"):
        chosen_template("{% for m in %}", [tmp_path])


def test_an_added_token_that_is_a_number_is_refused(tmp_path: Path) -> None:
    content = {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 1, "content": 0.5}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: .*the token 0\.5 is no text"):
        token_ids(tmp_path)
