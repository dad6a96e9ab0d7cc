"""Recipes as mergekit YAML: written for mergekit 0.1.5, and read."""

from __future__ import annotations

from typing import Any

from evomerge.recipes._mergekit_read import from_mergekit
from evomerge.recipes._mergekit_write import to_mergekit
from evomerge.recipes.yaml import FORMAT

__all__ = ["from_mergekit", "is_mergekit", "to_mergekit"]


def is_mergekit(content: dict[str, Any]) -> bool:
    """Whether a parsed YAML is mergekit's rather than evomerge's own."""
    return "merge_method" in content and FORMAT not in content
