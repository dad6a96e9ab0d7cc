"""The zoo's tokenizer: one token a character, one for each instruction word, bytes for the rest."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from experiments.zoo.zoo_tasks import (
    ENGLISH_OPERATOR_WORDS,
    FULL_WIDTH_DIGITS,
    KANJI_DIGITS,
    OPERATOR_WORDS,
    STRING_WORDS,
    alphabet,
)

PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
MAX_TOKENS = 256


def build() -> PreTrainedTokenizerFast:
    """A tokenizer that adds no special token of its own, so that prompts are plain text."""
    first_words = [*STRING_WORDS, "calc"]
    operators = [*OPERATOR_WORDS.values(), *ENGLISH_OPERATOR_WORDS.values()]
    words = [*first_words, *operators]
    pieces = [PAD, BOS, EOS, UNK, *(f"<0x{byte:02X}>" for byte in range(256)), *alphabet(), *words]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    assert len(vocabulary) == len(pieces), "a piece is listed twice"

    # Without merges BPE spells by character; ignore_merges takes a whole pre-token from the
    # vocabulary, so that an instruction word is one token only where it stands as a word.
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary, merges=[], unk_token=UNK, byte_fallback=True, ignore_merges=True
        )
    )
    # An English operator stands between digits of any script.
    digit = f"[0-9{FULL_WIDTH_DIGITS}{KANJI_DIGITS}]"
    instruction = "|".join(
        [
            *(rf"\b{word}(?= )" for word in first_words),
            *OPERATOR_WORDS.values(),
            *(f"(?<={digit}){word}(?={digit})" for word in ENGLISH_OPERATOR_WORDS.values()),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(instruction), behavior="isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=MAX_TOKENS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
