"""How a tokenizer numbers its tokens, from the files in its folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError
from evomerge.files import read_object, read_text

_AGAIN = "Copy the file again."
FAST = "tokenizer.json"
_ADDED = "added_tokens.json"
_NAMED = "special_tokens_map.json"


def token_ids(folder: Path) -> dict[str, int] | None:
    """Token string to row.

    They are those of tokenizer.json, or else of the older vocab.json or vocab.txt with
    added_tokens.json. None where no such file is there: a sentencepiece model alone tells nothing.

    Raises:
        CheckpointError: a file is damaged.
    """
    path = next((path for path in _files(folder) if os.path.lexists(path)), None)
    if path is None:
        return None
    try:
        ids = _ids(path)
        if path.name != FAST and (added := _object(folder / _ADDED)):
            ids |= {token: int(row) for token, row in added.items()}
        if min(ids.values(), default=0) < 0:
            raise ValueError("a negative token id")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        if path.name == "vocab.json":
            return None  # of several languages, each by itself
        raise CheckpointError(f"{path}: not a tokenizer: {error!r}. {_AGAIN}") from None
    return ids


def special_tokens(folder: Path) -> frozenset[str]:
    """The tokens that are none of the text's own, by the files that `token_ids` reads.

    Raises:
        CheckpointError: a file is damaged.
    """
    if os.path.lexists(folder / FAST):
        items = _object(folder / FAST).get("added_tokens") or []
        return frozenset(item["content"] for item in items if item.get("special"))
    named = _object(folder / _NAMED)
    several = [
        named.get("additional_special_tokens") or [],
        named.get("extra_special_tokens") or [],
    ]
    listed = [
        *named.values(),
        *(token for one in several if isinstance(one, list) for token in one),
    ]
    texts = [one.get("content") if isinstance(one, dict) else one for one in listed]
    return frozenset(
        [*_object(folder / _ADDED), *(text for text in texts if isinstance(text, str))]
    )


def _files(folder: Path) -> tuple[Path, ...]:
    """The files that number tokens, the first that is there counts."""
    found = [folder / FAST, folder / "vocab.json"]
    # beside bpe.codes it lists tokens with their counts, and rows start elsewhere
    if not (folder / "bpe.codes").exists():
        found.append(folder / "vocab.txt")
    return tuple(found)


def _ids(path: Path) -> dict[str, int]:
    if path.suffix == ".txt":
        lines = read_text(path, CheckpointError).replace("\r\n", "\n").removesuffix("\n")
        return {token: row for row, token in enumerate(lines.split("\n"))}
    content = _object(path)
    if path.name != FAST:
        return {str(token): int(row) for token, row in content.items()}
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: [token, score] pairs
        ids = {str(token): row for row, (token, _) in enumerate(vocabulary)}
    else:
        ids = {str(token): int(row) for token, row in vocabulary.items()}
    added = {item["content"]: int(item["id"]) for item in content.get("added_tokens") or []}
    if wrong := [token for token in added if not isinstance(token, str)]:
        raise ValueError(f"the token {wrong[0]!r} is no text")
    return ids | added


def _object(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no such file but for the one that must be there."""
    if path.name in (_ADDED, _NAMED) and not os.path.lexists(path):
        return {}
    return read_object(path, CheckpointError, _AGAIN)
