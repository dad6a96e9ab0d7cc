"""What a merged model's folder holds besides weights: config, tokenizer, generation config."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.weights.block_numbers import spelled_out
from evomerge.weights.names import DEPTH_KEYS, depth, language_parts
from evomerge.weights.small_files import copy, small_files
from evomerge.weights.tokenizers import is_of_tokenizer, write_template, write_tokenizer

if TYPE_CHECKING:
    from evomerge.weights.models import Models

_GENERATION = "generation_config.json"
# Keys of lists with one value a block, and lists of block numbers.
_PER_BLOCK = re.compile(r"layer|block|pattern|heads|intermediate|experts")
_BLOCK_LISTS = (
    *("mlp_only_layers", "moe_layers", "cross_attention_layers"),
    *("global_attn_layers", "full_attn_idxs"),
)
_TOKEN_ID = re.compile(r"_token_(id|index)$")


def write_metadata(models: Models, folder: Path, dtype: str) -> None:
    """Write all that a model folder holds besides weights.

    These are the base's `small_files`, but for the config, which is the merged model's if the base
    is one of Transformers, and for tokenizer and generation config, which are those of the model
    that the tokenizer is of.

    Args:
        folder: exists, and holds none of this yet.
        dtype: of the weights.
    """
    files = small_files(models.base.folder).files
    if models.base.bare:
        copy(files, folder)
        return
    vocabulary = models.vocabulary
    owner = models.base if vocabulary is None else vocabulary.owner
    replaced = {"config.json", *((_GENERATION,) if owner is not models.base else ())}
    copy(
        {n: f for n, f in files.items() if n not in replaced and not is_of_tokenizer(n)},
        folder,
    )
    config = json.dumps(merged_config(models, dtype), indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(config, encoding="utf-8")
    write_tokenizer(owner, folder, () if vocabulary is None else vocabulary.added_tokens())
    if owner is not models.base:
        theirs = small_files(owner.folder)
        copy({n: f for n, f in theirs.files.items() if n == _GENERATION}, folder)
    if models.chat_template is not None:
        write_template(models.chat_template, folder)


def merged_config(models: Models, dtype: str) -> dict[str, Any]:
    """The base's config with what the merge changed."""
    base = models.base.config
    config = _with_dtype(base if models.origins is None else spelled_out(base), dtype)
    config.pop("_name_or_path", None)
    config["dtype"] = dtype
    # written even where the base leaves it out: the default differs by architecture (rule R10)
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
    """The config with every dtype in it changed, under the key's present name."""
    copy = {
        key: _with_dtype(value, dtype) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in ("dtype", "torch_dtype")
    }
    return copy | {"dtype": dtype} if len(copy) < len(config) else copy


def _vocabulary_keys(models: Models, part: Mapping[str, Any]) -> dict[str, Any]:
    """The size of the vocabulary, and the ids of special tokens, where they change."""
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
            changed[key] = theirs[key]  # begin, end and padding of the owner's texts
        elif isinstance(value, int) and _TOKEN_ID.search(key):
            changed[key] = vocabulary.tokens.get(ours.get(value, ""), value)
    return changed


def _block_keys(models: Models, part: Mapping[str, Any]) -> dict[str, Any]:
    """The number of blocks, and the lists that have a value for each of them."""
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
                if own in _list_of(model.config, key, value)
            ]
        elif len(value) == before and _PER_BLOCK.search(key):
            theirs = [(_list_of(model.config, key, value), own) for model, own in models.origins]
            changed[key] = [list_[own] if own < len(list_) else value[-1] for list_, own in theirs]
    return changed


def _list_of(config: Mapping[str, Any], key: str, default: list[Any]) -> list[Any]:
    """The list under a key of a config, `spelled_out`, or of its language part."""
    whole = spelled_out(config)
    values = (part[key] for part in (whole, *language_parts(whole)) if key in part)
    return next((value for value in values if isinstance(value, list)), default)
