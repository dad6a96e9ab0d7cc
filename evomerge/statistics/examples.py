"""Examples: token ids that a model reads, predicting all but the first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.errors import ConfigError
from evomerge.files import read_text
from evomerge.scoring.texts import Text

Example = tuple[int, ...]


def from_texts(texts: Iterable[Text], lm: Any, max_length: int) -> list[Example]:
    """Prompts with their targets, the last ``max_length`` tokens of each.

    Args:
        texts: of a fitness's tasks.
        lm: an lm-eval model, whose tokenizer is used as lm-eval uses it.
        max_length: in tokens, at least 2.
    """
    examples = []
    for text in texts:
        tokens = lm.tok_encode(text.prompt + text.target)
        if not text.prompt or len(tokens) < 2:
            tokens = [lm.prefix_token_id, *tokens]
        examples.append(tuple(tokens[-max_length:]))
    return examples


def from_file(path: Path, lm: Any, max_length: int) -> list[Example]:
    """A text file in pieces of at most ``max_length`` tokens.

    Every piece begins with the token that lm-eval puts before a text: the tokenizer's start token,
    or its end token if it has none.

    Args:
        path: of a UTF-8 text.
        lm: an lm-eval model, whose tokenizer is used.
        max_length: in tokens, at least 2.

    Raises:
        ConfigError: the file cannot be read, or holds no text.
    """
    text = read_text(path, ConfigError)
    if not text.strip():
        raise ConfigError(f"{path}: holds no text")
    tokens = lm.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    step = max_length - 1
    return [
        (lm.prefix_token_id, *tokens[begin : begin + step]) for begin in range(0, len(tokens), step)
    ]


def draw(examples: Sequence[Example], wanted: int, seed: int) -> list[Example]:
    """``wanted`` of the examples drawn at random, or all if there are fewer, in their order."""
    chosen = np.random.default_rng(seed).permutation(len(examples))[:wanted]
    return [examples[number] for number in sorted(chosen.tolist())]


def batches(examples: Sequence[Example], size: int) -> Iterator[list[Example]]:
    """Batches of examples of equal length, which need no padding; the longest first."""
    by_length = sorted(examples, key=lambda example: -len(example))  # keeps ties in order
    for _, group in groupby(by_length, key=len):
        alike = list(group)
        for begin in range(0, len(alike), size):
            yield alike[begin : begin + size]


def shuffled_batches(examples: Sequence[Example], size: int, seed: int) -> Iterator[list[Example]]:
    """Batches of examples in random order, as training has them; the last may be smaller."""
    order = np.random.default_rng(seed).permutation(len(examples)).tolist()
    for begin in range(0, len(order), size):
        yield [examples[number] for number in order[begin : begin + size]]


def digest(examples: Sequence[Example]) -> str:
    """sha256 of the token ids."""
    return hashlib.sha256(json.dumps(examples, separators=(",", ":")).encode()).hexdigest()
