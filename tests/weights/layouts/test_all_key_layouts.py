"""Every family for which Transformers declares rules of loading, in its layouts side by side."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_configs import tiny_config
from torch import Tensor
from two_layouts import LAYOUTS, saved

from evomerge.errors import InputError
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.library import Library

pytestmark = pytest.mark.slow
AUTO = ("CausalLM", "ImageTextToText", "MaskedLM", "Seq2SeqLM", "")
MOST = 20_000_000  # weights: what cannot be made smaller is left out


def families() -> Iterator[tuple[str, Any, Any]]:
    """Name, class and tiny config of every model with rules of its own that can be made."""
    import transformers
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    for kind in CONFIG_MAPPING:
        if get_checkpoint_conversion_mapping(kind) is None:
            continue
        try:
            config = tiny_config(kind)
            for suffix in AUTO:
                auto = getattr(transformers, f"AutoModelFor{suffix}" if suffix else "AutoModel")
                if type(config) in auto._model_mapping:
                    with torch.device("meta"):
                        model = auto.from_config(config)
                    # a class for another config is not what loads this one
                    size = sum(parameter.numel() for parameter in model.parameters())
                    if type(model).config_class is type(config) and size < MOST:
                        yield f"{kind} {type(model).__name__}", auto, config
        except Exception:
            continue


def models(auto: Any, config: Any) -> list[Any]:
    made = []
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        made.append(auto.from_config(config))
        for parameter in made[-1].parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return made


def layouts(model: Any, folder: Path) -> dict[str, Path]:
    """Folders of one model: as files and as memory have it, and without the backbone's prefix."""
    found = {how: save(model, folder / how) for how, save in LAYOUTS.items()}
    state, prefix = load_file(found["memory"] / "model.safetensors"), f"{model.base_model_prefix}."
    bare = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    if bare.keys() != state.keys():
        found["bare"] = saved(model, folder / "bare", bare)
    return found


def wrong(base: Path, source: Path, expected: Mapping[str, Tensor]) -> list[str]:
    """The tensors of a base for which a source has not the expected values."""
    try:
        view = Library().open(str(base), {"source": str(source)}).sources["source"]
    except InputError as error:
        return list(error.problems)
    names = Checkpoint(base).tensors.keys() & expected.keys()
    return [n for n in names if n not in view.tensors or not view.read(n).equal(expected[n])]


def test_a_source_in_any_layout_is_the_same_model_beside_a_base_in_any_other(
    tmp_path: Path,
) -> None:
    failures, count = {}, 0
    for name, auto, config in families():
        base, source = (
            layouts(model, tmp_path / str(number))
            for number, model in enumerate(models(auto, config))
        )
        for ours in base:
            expected = load_file(source[ours] / "model.safetensors")
            for theirs in source.keys() - {ours}:
                if found := wrong(base[ours], source[theirs], expected):
                    failures[f"{name}: {theirs} in the layout of {ours}"] = found[:3]
        count += 1
        shutil.rmtree(tmp_path / "0")
        shutil.rmtree(tmp_path / "1")
    assert not failures
    assert count >= 120
