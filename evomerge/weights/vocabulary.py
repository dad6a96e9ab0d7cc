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
            ids = {str(token): row for row, (token, _) in enumerate(vocabulary)}
        else:
            ids = {str(token): int(row) for token, row in vocabulary.items()}
        ids |= {item["content"]: int(item["id"]) for item in content.get("added_tokens") or []}
        if min(ids.values(), default=0) < 0:
            raise ValueError("a negative token id")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a tokenizer: {error!r}. Copy the file again.") from None
    return ids


def row_map(base: dict[str, int], source: dict[str, int], rows: int, source_rows: int) -> Tensor:
    """For each of the base's rows the source's row of the same token, -1 where it has none.

    Args:
        base: token string to row.
        source: likewise.
        rows: of the base's embedding; there may be more than tokens, or fewer.
        source_rows: of the source's.

    Returns:
        (rows,) int64; padding rows, which no token has, are -1.
    """
    mapped = torch.full((rows,), -1, dtype=torch.int64)
    for token, row in base.items():
        there = source.get(token, -1)
        if row < rows and there < source_rows:
            mapped[row] = there
    return mapped


def align(source: Tensor, base: Tensor, rows: Tensor) -> Tensor:
    """The source's embedding in the base's row order.

    Args:
        source: (source_rows, ...).
        base: (base_rows, ...); its rows stand where the source has no such token.
        rows: (base_rows,) from `row_map`.

    Returns:
        (base_rows, ...) float32.

    Source: rule R9; a task vector is then zero for tokens that a source does not know.
    """
    # float32 even where the source is stored in less: the base's rows must not be rounded
    aligned = base.to(torch.float32, copy=True)
    known = (rows >= 0).nonzero().flatten()
    aligned[known] = source[rows[known]].to(torch.float32)
    return aligned
