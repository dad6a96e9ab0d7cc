"""Files of mergekit's other programs are named, and so is what to use in their place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.config.load import load
from evomerge.errors import ConfigError, RecipeError
from evomerge.weights.build import build
from evomerge.weights.library import read_recipe

MOE = """
base_model: o/base
gate_mode: hidden
experts:
- {source_model: o/a, positive_prompts: [code]}
- {source_model: o/b, positive_prompts: [maths]}
"""
EVOLVE = """
genome:
  models: [o/a, o/b]
  merge_method: dare_ties
  base_model: o/base
  layer_granularity: 8
tasks: [{name: maths, weight: 1, metric: "acc,none"}]
limit: 100
"""
BAKLLAMA = "layer_slices: [{model: o/a, start: 0, end: 3}]\n"
SURGEON = "model: o/a\ndonor: o/b\n"
LORA = "finetuned_model: o/a\nbase_model: o/base\nmax_rank: 8\n"

FILES = [
    (MOE, "a file of mergekit-moe, which makes a mixture of experts. .* merge_method: linear"),
    (EVOLVE, "a file of mergekit-evolve, .* evomerge run: base is genome.base_model, sources"),
    (BAKLLAMA, "a file of bakllama, which stacks blocks. .* merge_method: passthrough"),
    (SURGEON, "a file of mergekit-tokensurgeon, .* tokenizer: NAME"),
    (LORA, "a file of mergekit-extract-lora, .* model\\+adapter in a mergekit file"),
]


@pytest.mark.parametrize(("text", "sentence"), FILES)
def test_files_of_other_programs_are_named(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "other.yaml"
    file.write_text(text)
    for read in (read_recipe, load):
        with pytest.raises((RecipeError, ConfigError), match=sentence) as caught:
            read(file)
        assert len(caught.value.problems) == 1


def test_a_merge_in_place_of_a_search_is_named(tmp_path: Path) -> None:
    file = tmp_path / "merge.yaml"
    file.write_text("merge_method: linear\nmodels: [{model: o/a, parameters: {weight: 1}}]\n")
    with pytest.raises(ConfigError, match="a mergekit file, which is one merge: evomerge build"):
        load(file)


def test_files_in_place_of_models_are_refused_and_the_cure_works(
    tmp_path: Path, cli: Callable[..., object]
) -> None:
    for name, value in (("a", 1.0), ("b", 3.0)):
        (tmp_path / name).mkdir()
        torch.save({"weight": torch.full((2, 2), value)}, tmp_path / name / "net.bin")
    text = "merge_method: linear\nmodels: [{{model: {0}}}, {{model: {1}}}]\n"
    text += "parameters: {{weight: 1}}\ndtype: float32\n"
    file = tmp_path / "merge.yaml"
    file.write_text(text.format(tmp_path / "a" / "net.bin", tmp_path / "b" / "net.bin"))
    with pytest.raises(RecipeError, match=r"mergekit-pytorch .* evomerge convert FOLDER OUT"):
        read_recipe(file)
    for name in "ab":
        cli("convert", tmp_path / name, tmp_path / f"{name}-safe")
    file.write_text(text.format(tmp_path / "a-safe", tmp_path / "b-safe"))
    found = load_file(build(file, tmp_path / "out") / "model.safetensors")
    assert torch.equal(found["weight"], torch.full((2, 2), 2.0))


def test_a_folder_may_be_called_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.pt").mkdir()
    save_file({"weight": torch.ones(2)}, tmp_path / "model.pt" / "model.safetensors")
    file = tmp_path / "merge.yaml"
    file.write_text(f"merge_method: passthrough\nmodels: [{{model: {tmp_path / 'model.pt'}}}]\n")
    assert read_recipe(file).base == str(tmp_path / "model.pt")


@pytest.mark.parametrize("key", ["experts", "donor", "genome", "max_rank"])
def test_a_merge_with_such_a_key_is_a_merge(tmp_path: Path, key: str) -> None:
    file = tmp_path / "merge.yaml"
    text = "merge_method: linear\nmodels: [{model: o/a, parameters: {weight: 1}}]\n"
    file.write_text(f"{text}{key}: 1\n")
    notes: list[str] = []
    assert read_recipe(file, notes.append).sources == {"a": "o/a"}
    assert [note.partition("key.")[0] for note in notes] == [
        f"{file}: {key}: mergekit ignores this "
    ]
