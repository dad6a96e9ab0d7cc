"""What `experiments/dataflow_zoo` draws, and the models of `experiments/block_zoo`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from evomerge.recipes import Recipe
from experiments.block_zoo.make_block_zoo import NEW, expanded
from experiments.dataflow_zoo.paths import MERGED, Hop, Row, draw, hops
from experiments.repeated import spread

ZOO = Path(__file__).parents[2] / "experiments" / "zoo"
MODELS = {"./a": "arithmetic", "./k": "kanji", "./b": "base"}


def stack(**content: Any) -> Recipe:
    return Recipe(**{"operator": "passthrough", "dtype": "float32", **content})


def test_a_path_has_the_names_that_the_search_gives_its_models() -> None:
    recipe = stack(
        base="./a",
        sources={"one": "./a", "two": "./k"},
        slices=[{"one": [0, 2]}, {"two": [1, 2]}],
        scales=[1.0, 0.9, 1.2],
    )
    assert hops(recipe, MODELS) == [
        Hop("arithmetic", 0, 1.0),
        Hop("arithmetic", 1, 0.9),
        Hop("kanji", 1, 1.2),
    ]


def test_blocks_of_a_nested_recipe_and_of_several_models_are_merged() -> None:
    merge = Recipe(base="./b", sources={"a": "./a"}, operator="linear", dtype="float32")
    nested = stack(base=merge, sources={"merge": merge, "k": "./k"}, slices=[{"merge": [0, 1]}])
    joint = stack(base="./b", sources={"a": "./a", "k": "./k"}, slices=[{"a": [2, 3], "k": [2, 3]}])
    assert hops(nested, MODELS) == [Hop(MERGED, 0, 1.0)]
    assert hops(joint, MODELS) == [Hop(MERGED, 2, 1.0)]


def test_the_picture_of_paths_of_other_lengths_can_be_drawn(tmp_path: Path) -> None:
    short = Row("seed 0", "50 / 51", [Hop("base", 0, 1.0), Hop("kanji", 3, 0.8)])
    long = Row("seed 1", "52 / 50", [Hop(MERGED, n, 1.1) for n in range(7)])
    draw({"one": [short], "two": [long, short]}, tmp_path / "paths.png")
    assert (tmp_path / "paths.png").read_bytes().startswith(b"\x89PNG")


def test_the_spread_is_the_standard_error() -> None:
    assert spread([0.1, 0.2, 0.3]) == f"20.0 ± {10 / math.sqrt(3):.1f}"


def test_the_block_that_is_added_to_the_base_does_nothing() -> None:
    old, new = LlamaForCausalLM.from_pretrained(ZOO / "base", dtype=torch.float32), expanded()
    tokens = torch.arange(24).reshape(2, 12)
    with torch.inference_mode():
        assert torch.equal(old(tokens).logits, new(tokens).logits)
    added, *_ = (block for n, block in enumerate(new.model.layers) if n == NEW)
    assert not added.mlp.down_proj.weight.any()
    assert added.mlp.up_proj.weight.any()
