"""Rows of embeddings and heads that mean the same token in two models."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from evomerge.errors import CheckpointError


def token_ids(folder: Path) -> dict[str, int] | None:
    """Token string to row, from tokenizer.json; None when the folder has none.

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
            ids = {token: row for row, (token, _) in enumerate(vocabulary)}
        else:
            ids = {str(token): int(row) for token, row in vocabulary.items()}
        added = {item["content"]: int(item["id"]) for item in content.get("added_tokens", [])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a tokenizer: {error!r}") from None
    return ids | added


def row_map(base: dict[str, int], source: dict[str, int]) -> Tensor | None:
    """For each of the base's rows the source's row of the same token, -1 where it has none.

    Returns:
        (rows,) int64, or None when both number the same tokens alike.
    """
    if base == source:
        return None
    rows = torch.full((1 + max(base.values(), default=-1),), -1, dtype=torch.int64)
    for token, row in base.items():
        rows[row] = source.get(token, -1)
    return rows


def align(source: Tensor, base: Tensor, rows: Tensor) -> Tensor:
    """The source's embedding in the base's row order.

    Args:
        source: (source_rows, width).
        base: (base_rows, width); its rows stand where the source has no such token.
        rows: from `row_map`.

    Returns:
        (base_rows, width) in the source's dtype.

    Source: rule R9; a task vector is then zero for tokens that a source does not know.
    """
    aligned = base.to(source.dtype).clone()
    known = (rows >= 0) & (rows < len(source))
    known[len(base) :] = False
    targets = known.nonzero().flatten()
    aligned[targets] = source[rows[targets]]
    return aligned
