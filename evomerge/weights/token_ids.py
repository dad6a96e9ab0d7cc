"""The tokens of a tokenizer.json."""

from __future__ import annotations

import json
from pathlib import Path

from evomerge.errors import CheckpointError


def token_ids(folder: Path) -> dict[str, int] | None:
    """Token string to row, from a folder's tokenizer.json; None where there is none.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
        if isinstance(vocabulary, list):  # Unigram: [token, score] pairs
            ids = {str(token): row for row, (token, _) in enumerate(vocabulary)}
        else:
            ids = {str(token): int(row) for token, row in vocabulary.items()}
        ids |= {item["content"]: int(item["id"]) for item in content.get("added_tokens") or []}
        if min(ids.values(), default=0) < 0:
            raise ValueError("a negative token id")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a tokenizer: {error!r}. Copy the file again.") from None
    return ids
