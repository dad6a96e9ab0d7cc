"""From a recipe to a Hugging Face folder that any tool loads."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from evomerge.errors import InputError, OutputError
from evomerge.recipes import Recipe
from evomerge.reports.model_card import model_card
from evomerge.weights.merge import merge
from evomerge.weights.names import language_parts
from evomerge.weights.plan import Plan, make_plan
from evomerge.weights.writer import SHARD_BYTES, Spec, write_weights

# What belongs to a model besides its weights: tokenizer, chat template, generation settings.
_COMPANIONS = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("*.model", "*.tiktoken", "chat_template*", "additional_chat_templates/*"),
    *("generation_config.json", "preprocessor_config.json", "processor_config.json"),
    "video_preprocessor_config.json",
)


def build(recipe: Recipe, out: Path, shard_bytes: int = SHARD_BYTES, title: str = "") -> Path:
    """Merge a recipe and write config, weights, tokenizer, generation config and model card.

    The folder appears when it is whole; a failure leaves nothing behind.

    Args:
        recipe: what to merge; its relative folders are seen from the working directory.
        out: must not exist, or be an empty folder.
        shard_bytes: the size at which a weights file is closed and the next one begun.
        title: of the model card; the folder's name by default.

    Raises:
        InputError: ``out`` is taken, or the recipe's models cannot be opened or do not fit.
        OutputError: the disk is full, or ``out`` cannot be written.
        CandidateError: the merged weights are not finite.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already. Choose another folder, or delete it.")
    plan = make_plan(recipe)
    new_parents = [parent for parent in out.absolute().parents if not parent.exists()]
    try:
        with _staged(out, plan.nbytes) as partial:
            _fill(partial, plan, shard_bytes, title or out.absolute().name)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        if not out.exists():
            for parent in new_parents:
                with suppress(OSError):
                    parent.rmdir()
    return out


@contextmanager
def _staged(out: Path, needed_bytes: int) -> Iterator[Path]:
    """A folder beside ``out`` that becomes it when all went well, and vanishes otherwise."""
    out.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out.parent).free
    if free < needed_bytes:
        raise OutputError(f"{out}: needs {needed_bytes} bytes, the disk has {free} free.")
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())  # mkdtemp makes private folders
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fill(folder: Path, plan: Plan, shard_bytes: int, title: str) -> None:
    specs = [Spec(step.slot.name, step.slot.shape, step.dtype) for step in plan.steps]
    write_weights(folder, specs, merge(plan), shard_bytes)
    config = json.dumps(_config(plan), indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(config, encoding="utf-8")
    base = plan.models.base.folder
    for pattern in _COMPANIONS:
        for file in sorted(base.glob(pattern)):
            if file.is_file() and file.suffix != ".safetensors":
                copy = folder / file.relative_to(base)
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, copy)
    (folder / "README.md").write_text(model_card(plan.recipe, title), encoding="utf-8")


def _config(plan: Plan) -> dict[str, Any]:
    """The base's config with what the merge changed."""
    config = _with_dtype(plan.models.base.config, plan.recipe.dtype)
    config.pop("_name_or_path", None)
    config["dtype"] = plan.recipe.dtype
    # Said even where the base does not say it: its default differs by architecture (rule R10).
    tied = not plan.models.untied
    for part in (config, *language_parts(config)):
        if part is config or "tie_word_embeddings" in part:
            part["tie_word_embeddings"] = tied
    return config


def _with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The config, and those within it, with the dtype under its present name where it is told."""
    copy = {
        key: _with_dtype(value, dtype) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in ("dtype", "torch_dtype")
    }
    return copy | {"dtype": dtype} if len(copy) < len(config) else copy


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
