"""The config of a merged model, which every candidate of a search asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evomerge.recipes import Recipe
from evomerge.weights.library import Library
from evomerge.weights.models import Models
from evomerge.weights.output import metadata
from evomerge.weights.output.metadata import merged_config


@pytest.mark.parametrize(("tied", "most"), [({"tied": False}, 0), ({"tied": True}, 2)])
def test_transformers_is_asked_of_each_config_once_at_most(
    tiny: Callable[..., Path], tied: dict[str, Any], most: int
) -> None:
    """It is asked only where the key changes: the base is tied, and the source has its own head."""
    metadata._unfilled.cache_clear()

    def opened(blocks: list[int]) -> Models:
        slices = [{"s": [block, block + 1]} for block in blocks]
        keys = {"base": str(tiny(**tied)), "sources": {"s": str(tiny(1, tied=False))}}
        recipe = {**keys, "operator": "passthrough", "dtype": "float32", "slices": slices}
        return Library().models(Recipe.model_validate(recipe))

    for blocks, asked in (([0, 1, 2], most), ([2, 1, 0], most), ([0, 1], 2 * most)):
        config = merged_config(opened(blocks), "float32")
        assert config["tie_word_embeddings"] is False
        assert config["num_hidden_layers"] == len(blocks)
        assert metadata._unfilled.cache_info().misses == asked
