"""What a merge changes in the base's config: its blocks, and its vocabulary."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evomerge.weights.architecture.names import language_parts
from evomerge.weights.architecture.token_tables import resized
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.stacks.block_numbers import Described, Origins, stack_config

if TYPE_CHECKING:
    from evomerge.weights.tokens.vocabulary import Vocabulary

_TOKEN_ID = re.compile(r"_token_(id|index)$")


def changed_config(
    base: Checkpoint, origins: Origins | None, vocabulary: Vocabulary | None
) -> dict[str, Any]:
    """The base's config with the blocks and the vocabulary of a merged model.

    Args:
        origins: of a stack, for each block its model and its number there.
        vocabulary: of the merged model; None where rows are not aligned.
    """
    if origins is not None:
        config = stack_config(Described(base.config, base.layers), origins)
    else:
        config = {k: dict(v) if isinstance(v, Mapping) else v for k, v in base.config.items()}
    if vocabulary is None:
        return config
    if vocabulary.base_rows != vocabulary.padded_rows:
        config = resized(config, vocabulary.base_rows, vocabulary.padded_rows)
    for part in (config, *language_parts(config)):
        part |= _vocabulary_keys(base, vocabulary, part)
    return config


def _vocabulary_keys(
    base: Checkpoint, vocabulary: Vocabulary, part: Mapping[str, Any]
) -> dict[str, Any]:
    """The size of the vocabulary, and the ids of special tokens, where they change."""
    if vocabulary.owner is base and vocabulary.padded_rows == vocabulary.own_rows:
        return {}
    changed = {key: vocabulary.padded_rows for key in ("vocab_size",) if key in part}
    if vocabulary.owner is base:
        return changed
    ours = {row: token for token, row in (base.vocabulary or {}).items()}
    theirs = vocabulary.owner.config
    for key, value in part.items():
        if key in theirs and _TOKEN_ID.search(key):
            changed[key] = theirs[key]  # begin, end and padding of the owner's texts
        elif isinstance(value, int) and _TOKEN_ID.search(key):
            changed[key] = vocabulary.tokens.get(ours.get(value, ""), value)
    return changed
