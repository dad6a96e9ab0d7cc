"""What a merged model's folder holds besides weights: config, tokenizer, generation config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.weights.architecture.conformity import RefusedError, report
from evomerge.weights.architecture.names import language_parts
from evomerge.weights.files.file_names import is_of_tokenizer
from evomerge.weights.files.small_files import copy, small_files
from evomerge.weights.output.config_changes import changed_config
from evomerge.weights.tokens.tokenizers import write_template, write_tokenizer

if TYPE_CHECKING:
    from evomerge.weights.models import Models

_GENERATION = "generation_config.json"


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
    replaced = {"config.json", _GENERATION}
    copy(
        {n: f for n, f in files.items() if n not in replaced and not is_of_tokenizer(n)},
        folder,
    )
    config = json.dumps(merged_config(models, dtype), indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(config, encoding="utf-8")
    write_tokenizer(owner, folder, () if vocabulary is None else vocabulary.added_tokens())
    theirs = small_files(owner.generation_folder).files
    copy({n: f for n, f in theirs.items() if n == _GENERATION}, folder)
    if models.chat_template is not None:
        write_template(models.chat_template, folder)


def merged_config(models: Models, dtype: str) -> dict[str, Any]:
    """The base's config with what the merge changed."""
    changed = changed_config(models.base, models.blocks, models.vocabulary)
    config = _with_dtype(changed, dtype)
    config.pop("_name_or_path", None)
    config["dtype"] = dtype
    # written even where the base leaves it out: the default differs by architecture (rule R10)
    told = deepcopy(config)
    for part in (told, *language_parts(told)):
        if part is told or "tie_word_embeddings" in part:
            part["tie_word_embeddings"] = not models.untied
    if not models.untied or told == config:
        return told
    # the key may tie what is no head, and of that files have one name only
    shapes = tuple((slot.name, slot.shape) for slot in models.slots)
    lost, known = (_unfilled(json.dumps(one, sort_keys=True), shapes) for one in (told, config))
    return config if lost - known else told


@lru_cache(maxsize=32)  # every candidate of a search asks, and most of them the same
def _unfilled(config: str, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> frozenset[str]:
    """The tensors for which Transformers finds no weights among those of the merged model.

    Args:
        config: as JSON.
        shapes: names and shapes of the tensors in the files.
    """
    try:
        found = report(json.loads(config), dict(shapes))
    except RefusedError:
        return frozenset()
    return frozenset() if found is None else found.missing


def _with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The config with every dtype in it changed, under the key's present name."""
    copy = {
        key: _with_dtype(value, dtype) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in ("dtype", "torch_dtype")
    }
    return copy | {"dtype": dtype} if len(copy) < len(config) else copy
