"""Bases that are packed in files in another way than in memory, in the Transformers engine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from two_layouts import FAMILIES, LAYOUTS, made

from evomerge.engines._packing import Packed
from evomerge.engines.transformers import TransformersEngine
from evomerge.recipes import Recipe
from evomerge.weights.build import build
from evomerge.weights.library import Library

Tiny = Callable[..., Path]
TEXTS = ("gpt_neox", "qwen2_moe", "qwen3_moe", "olmoe", "phimoe", "granitemoe", "jamba")


@pytest.fixture
def folders(tiny: Tiny, tmp_path: Path) -> Callable[[str, str], tuple[Path, Path]]:
    """A base in one layout and a source in the other, with tokenizers."""

    def make(family: str, ours: str) -> tuple[Path, Path]:
        theirs = next(layout for layout in LAYOUTS if layout != ours)
        for seed, layout in ((0, ours), (1, theirs)):
            folder = LAYOUTS[layout](made(FAMILIES[family], seed), tmp_path / layout)
            for file in tiny(0).glob("tokenizer*"):
                shutil.copy(file, folder)
        return tmp_path / ours, tmp_path / theirs

    return make


def recipe(base: Path, source: Path, **keys: object) -> Recipe:
    content = {"base": str(base), "sources": {"a": str(base), "b": str(source)}}
    return Recipe.model_validate(
        {**content, "operator": "ties", "dtype": "float32", "parameters": {"density": 0.5}, **keys}
    )


def state_of(engine: TransformersEngine) -> dict[str, Tensor]:
    return dict(engine.module.state_dict())


def rebuilt(wanted: Recipe, out: Path) -> dict[str, Tensor]:
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(
        build(wanted, out), dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values()), report
    state: dict[str, Tensor] = model.state_dict()
    return state


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    assert not [name for name in got if not torch.equal(got[name], expected[name])]


@pytest.mark.parametrize("ours", LAYOUTS)
@pytest.mark.parametrize(
    "family",
    ["mixtral", *(pytest.param(n, marks=pytest.mark.slow) for n in (*TEXTS, "deepseek_v3"))],
)
def test_a_base_in_either_layout_fills_the_engine_as_what_is_built_from_it(
    folders: Callable[[str, str], tuple[Path, Path]], family: str, ours: str, tmp_path: Path
) -> None:
    wanted = recipe(*folders(family, ours))
    engine = TransformersEngine()
    engine.open(Library().models(wanted))
    engine.load(Library().plan(wanted))
    assert_same(state_of(engine), rebuilt(wanted, tmp_path / "built"))
    engine.close()


def test_stacks_of_a_base_in_the_layout_of_files_are_what_is_built_from_them(
    folders: Callable[[str, str], tuple[Path, Path]], tmp_path: Path
) -> None:
    base, source = folders("mixtral", "files")

    def stack(*blocks: tuple[str, int]) -> Recipe:
        slices = [{name: [block, block + 1]} for name, block in blocks]
        return recipe(base, source, operator="linear", parameters={}, slices=slices)

    library, engine = Library(), TransformersEngine()
    engine.open(library.models(stack(("a", 0), ("b", 1), ("b", 0), ("a", 1))))
    for number, wanted in enumerate(
        (stack(("a", 0), ("b", 1), ("b", 1)), stack(("b", 1)), stack(("a", 0), ("b", 1), ("b", 1)))
    ):
        engine.load(library.plan(wanted))
        assert_same(state_of(engine), rebuilt(wanted, tmp_path / str(number)))
    engine.close()


def test_what_lies_in_several_tensors_or_across_them_is_taken_apart() -> None:
    from evomerge.weights.architecture.arrays import Leaf, cut, join, reshape, swap

    live = {"a": torch.zeros(2, 6), "b": torch.zeros(2, 6)}
    a, b = Leaf("a", (2, 6)), Leaf("b", (2, 6))
    values = torch.arange(24.0).view(6, 4)
    Packed(swap(join([a, b], 0), 0, 1), live).fill(values)
    assert torch.equal(torch.cat([live["a"], live["b"]]), values.T)
    Packed(reshape(cut(b, 1, 1, 3), (3, 2)), live).fill(torch.ones(3, 2))
    assert torch.equal(live["b"][:, 1:4], torch.ones(2, 3))
    assert torch.equal(live["b"][:, 0], values.T[2:, 0])
