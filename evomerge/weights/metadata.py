"""Everything of a merged model's folder but the weights: config, tokenizer, generation config."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.weights import chat_templates
from evomerge.weights.layer_types import spelled_out
from evomerge.weights.names import DEPTH_KEYS, depth, language_parts
from evomerge.weights.tokenizers import copy_files, write_tokenizer

if TYPE_CHECKING:
    from evomerge.weights.models import Models

_GENERATION = "generation_config.json"
_PROCESSORS = (
    *("preprocessor_config.json", "processor_config.json"),
    "video_preprocessor_config.json",
)
# Lists with a value for every block, and lists of the blocks that something is true of.
_PER_BLOCK = re.compile(r"layer|block|pattern|heads|intermediate|experts")
_BLOCK_LISTS = (
    *("mlp_only_layers", "moe_layers", "cross_attention_layers"),
    *("global_attn_layers", "full_attn_idxs"),
)
_TOKEN_ID = re.compile(r"_token_(id|index)$")


def write_metadata(models: Models, folder: Path, dtype: str) -> None:
    """Write all that Transformers needs besides the weights.

    Where the base is none of its models, its config, if it has one, is copied as it is.

    Args:
        folder: exists, and holds none of this yet.
        dtype: of the weights.
    """
    if models.base.bare:
        copy_files(models.base.folder, folder, ["config.json"])
        return
    config = json.dumps(merged_config(models, dtype), indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(config, encoding="utf-8")
    vocabulary = models.vocabulary
    speaker = models.base if vocabulary is None else vocabulary.owner
    write_tokenizer(speaker, folder, () if vocabulary is None else vocabulary.added_tokens())
    copy_files(speaker.folder, folder, [_GENERATION])
    copy_files(models.base.folder, folder, _PROCESSORS)
    if models.chat_template is not None:
        chat_templates.write(models.chat_template, folder)


def merged_config(models: Models, dtype: str) -> dict[str, Any]:
    """The base's config with what the merge changed."""
    said = models.base.config if models.origins is None else spelled_out(models.base.config)
    config = _with_dtype(said, dtype)
    config.pop("_name_or_path", None)
    config["dtype"] = dtype
    # Said even where the base does not say it: its default differs by architecture (rule R10).
    tied = not models.untied
    for part in (config, *language_parts(config)):
        if part is config or "tie_word_embeddings" in part:
            part["tie_word_embeddings"] = tied
        if models.vocabulary is not None:
            part |= _vocabulary_keys(models, part)
        if models.origins is not None:
            part |= _block_keys(models, part)
    return config


def _with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The config, and those within it, with the dtype under its present name where it is told."""
    copy = {
        key: _with_dtype(value, dtype) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in ("dtype", "torch_dtype")
    }
    return copy | {"dtype": dtype} if len(copy) < len(config) else copy


def _vocabulary_keys(models: Models, part: Mapping[str, Any]) -> dict[str, Any]:
    """The size of the vocabulary, and ids of tokens that have another number in it."""
    vocabulary = models.vocabulary
    assert vocabulary is not None
    if vocabulary.owner is models.base and vocabulary.padded_rows == vocabulary.own_rows:
        return {}
    changed = {key: vocabulary.padded_rows for key in ("vocab_size",) if key in part}
    if vocabulary.owner is models.base:
        return changed
    ours = {row: token for token, row in (models.base.vocabulary or {}).items()}
    theirs = vocabulary.owner.config
    for key, value in part.items():
        if key in theirs and _TOKEN_ID.search(key):
            changed[key] = theirs[key]  # where its text begins, ends and is padded
        elif isinstance(value, int) and _TOKEN_ID.search(key):
            changed[key] = vocabulary.tokens.get(ours.get(value, ""), value)
    return changed


def _block_keys(models: Models, part: Mapping[str, Any]) -> dict[str, Any]:
    """The number of blocks, and what a config says of each of them."""
    assert models.origins is not None
    before = depth(models.base.config)
    changed: dict[str, Any] = {
        key: len(models.origins) for key in DEPTH_KEYS if key in part and part[key] == before
    }
    for key, value in part.items():
        if not isinstance(value, list):
            continue
        if key in _BLOCK_LISTS:
            changed[key] = [
                number
                for number, (model, own) in enumerate(models.origins)
                if own in _said(spelled_out(model.config), key, value)
            ]
        elif len(value) == before and _PER_BLOCK.search(key):
            changed[key] = list(_follow(models, key, value))
    return changed


def _follow(models: Models, key: str, value: list[Any]) -> Iterator[Any]:
    """The value of each block where the block comes from."""
    for model, own in models.origins or ():
        theirs = _said(spelled_out(model.config), key, value)
        yield theirs[own] if own < len(theirs) else value[-1]


def _said(config: Mapping[str, Any], key: str, default: list[Any]) -> list[Any]:
    """The list that a config has under a key, in itself or in its language part."""
    found = (part[key] for part in (config, *language_parts(config)) if key in part)
    return next((value for value in found if isinstance(value, list)), default)
