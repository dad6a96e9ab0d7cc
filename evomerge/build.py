"""From a recipe to a Hugging Face folder that any tool loads."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import OutputError
from evomerge.recipes import Recipe
from evomerge.reports.model_card import model_card
from evomerge.weights.merge import merge
from evomerge.weights.plan import Plan, make_plan
from evomerge.weights.writer import SHARD_BYTES, Spec, write_weights

# What belongs to a model besides its weights: tokenizer, chat template, generation settings.
_COMPANIONS = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("*.model", "chat_template*", "generation_config.json", "preprocessor_config.json"),
    *("processor_config.json", "video_preprocessor_config.json"),
)


def build(recipe: Recipe, out: Path, shard_bytes: int = SHARD_BYTES, title: str = "") -> Path:
    """Merge a recipe and write config, weights, tokenizer, generation config and model card.

    The folder appears when it is whole; a failure leaves nothing behind.

    Args:
        out: must not exist, or be an empty folder.

    Raises:
        OutputError: ``out`` is taken, or the disk is full.
        InputError: the recipe's models cannot be opened or do not fit together.
        CandidateError: the merged weights are not finite.
    """
    plan = make_plan(recipe)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out}: exists already. Choose another folder, or delete it.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out.parent).free
        if free < plan.nbytes:
            raise OutputError(f"{out}: needs {plan.nbytes} bytes, the disk has {free} free.")
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}") from error
    try:
        _fill(partial, plan, shard_bytes, title or out.name)
        partial.chmod(0o777 & ~_umask())  # mkdtemp makes private folders
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _fill(folder: Path, plan: Plan, shard_bytes: int, title: str) -> None:
    specs = [Spec(step.slot.name, step.slot.shape, step.dtype) for step in plan.steps]
    write_weights(folder, specs, merge(plan), shard_bytes)
    config = json.dumps(_config(plan), indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(config, encoding="utf-8")
    base = plan.models.base.folder
    for pattern in _COMPANIONS:
        for file in sorted(base.glob(pattern)):
            if file.is_file() and not file.name.endswith(".safetensors"):
                shutil.copyfile(file, folder / file.name)
    (folder / "README.md").write_text(model_card(plan.recipe, title), encoding="utf-8")


def _config(plan: Plan) -> Mapping[str, Any]:
    """The base's config with what the merge changed."""
    config = dict(plan.models.base.config)
    config.pop("_name_or_path", None)
    config.pop("torch_dtype", None)  # the older name of dtype
    config["dtype"] = plan.recipe.dtype
    if plan.models.untied and "tie_word_embeddings" in config:
        config["tie_word_embeddings"] = False  # rule R10
    return config


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
