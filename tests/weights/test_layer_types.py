"""What each block is, where a config leaves it to the number: as Transformers has it."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig

from evomerge.weights.stacks.block_numbers import Described, spelled_out


@pytest.mark.parametrize(
    "keys",
    [
        {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 2},
        {"model_type": "qwen3", "use_sliding_window": True, "max_window_layers": 2},
        {"model_type": "qwen3", "use_sliding_window": True, "sliding_window": None},
        {"model_type": "qwen2", "max_window_layers": 2},
        {"model_type": "qwen2_moe", "use_sliding_window": True, "max_window_layers": 3},
        {"model_type": "gemma2"},
        {"model_type": "gemma3_text", "sliding_window_pattern": 2},
        {"model_type": "cohere2"},
        {"model_type": "olmo3"},
        {"model_type": "smollm3", "use_sliding_window": True, "sliding_window": 8},
    ],
)
def test_blocks_are_what_transformers_takes_them_for(keys: dict[str, Any]) -> None:
    config = {**keys, "num_hidden_layers": 6}
    theirs = AutoConfig.for_model(**config)
    assert spelled_out(Described(config, 6))["layer_types"] == theirs.layer_types
