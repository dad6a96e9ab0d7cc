"""The tokenizer of a merged model: the files of one model, with tokens added behind its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from evomerge.errors import PlanError
from evomerge.weights.checkpoint import Checkpoint

_FILES = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("*.model", "*.tiktoken", "chat_template*", "additional_chat_templates/*"),
)
# the files that are copied where tokens were added: older formats would lack them
_FAST_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("chat_template*", "additional_chat_templates/*"),
)


class AddedToken(TypedDict):
    """An item of ``added_tokens`` in a tokenizer.json."""

    id: int
    content: str
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


def added_tokens(model: Checkpoint) -> dict[str, AddedToken]:
    """Token string to its item under ``added_tokens`` of the tokenizer.json."""
    if model.vocabulary is None:
        return {}
    return {token["content"]: token for token in _content(model).get("added_tokens") or []}


def next_id(model: Checkpoint) -> int:
    """The id that the tokenizers library gives to the next token that is added.

    Raises:
        PlanError: ids have gaps, so that this id is taken.
    """
    assert model.vocabulary is not None
    last = max((token["id"] for token in added_tokens(model).values()), default=-1)
    number = max(len(_content(model)["model"]["vocab"]), last + 1)
    if number <= max(model.vocabulary.values(), default=-1):
        raise PlanError(
            f"{model.folder}: the ids of its tokens have gaps, so that none can be added. "
            "Take the tokenizer of another model."
        )
    return number


def write_tokenizer(model: Checkpoint, folder: Path, added: Sequence[AddedToken]) -> None:
    """Copy a model's tokenizer with its chat template, and add tokens to it.

    Args:
        added: have the ids that follow the model's own.
    """
    copy_files(model.tokenizer_folder, folder, _FAST_FILES if added else _FILES)
    if not added:
        return
    content = _content(model)
    content["added_tokens"] = [*(content.get("added_tokens") or []), *added]
    _write(content, folder / "tokenizer.json")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    # some tokenizer classes read added tokens there and nowhere else
    if isinstance(config.get("added_tokens_decoder"), dict):
        for token in added:
            flags = {key: value for key, value in token.items() if key != "id"}
            config["added_tokens_decoder"][str(token["id"])] = flags
        _write(config, path)


def copy_files(source: Path, target: Path, patterns: Sequence[str]) -> None:
    """Copy the files that match glob patterns, but never weights."""
    for pattern in patterns:
        for file in sorted(source.glob(pattern)):
            if file.is_file() and file.suffix != ".safetensors":
                copy = target / file.relative_to(source)
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, copy)


def _write(content: Any, path: Path) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=2) + "\n"
    path.write_text(text, encoding="utf-8")


def _content(model: Checkpoint) -> dict[str, Any]:
    path = model.tokenizer_folder / "tokenizer.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
