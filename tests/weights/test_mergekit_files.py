"""mergekit files built from models on disk: adapters, ranges, notes, values by hand."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evomerge.errors import InputError
from evomerge.weights.adapters.adapter import Adapter
from evomerge.weights.build import build
from evomerge.weights.checkpoint import Checkpoint

Tiny = Callable[..., Path]
Made = Callable[..., Path]
EMBEDDING = "model.embed_tokens.weight"
QUERY, DOWN = "model.layers.1.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"


def built(folder: Path, text: str, notes: list[str] | None = None) -> dict[str, Tensor]:
    """The tensors of the model that a YAML text is built to; notes go into ``notes``."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "merge.yaml"
    file.write_text(text)
    told: list[str] = [] if notes is None else notes
    return load_file(build(file, folder / "out", tell=told.append) / "model.safetensors")


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def with_lora(base: Path, adapter: Path, name: str) -> Tensor:
    return Adapter(adapter, Checkpoint(base)).read(name)


def test_adapters_on_the_base_are_merged_into_it(tiny: Tiny, made: Made, tmp_path: Path) -> None:
    base, one, two = tiny(), made(tiny(), 1), made(tiny(), 2)
    found = built(
        tmp_path,
        f"merge_method: task_arithmetic\nmodels:\n"
        f"- {{model: {base}+{one}, parameters: {{weight: 0.25}}}}\n"
        f"- {{model: {base}+{two}, parameters: {{weight: 0.75}}}}\n"
        f"base_model: {base}\ndtype: float32\n",
    )
    for name in (QUERY, DOWN):
        start = weights(base)[name]
        left, right = (with_lora(base, adapter, name) - start for adapter in (one, two))
        assert torch.equal(found[name], start + (0.25 * left + 0.75 * right))
    assert torch.equal(found[EMBEDDING], weights(base)[EMBEDDING])


def test_adapters_on_models_of_their_own_are_merged_into_them(
    tiny: Tiny, made: Made, tmp_path: Path
) -> None:
    first, second = tiny(1), tiny(2)
    one, two = made(first, 1), made(second, 2)
    found = built(
        tmp_path,
        f"merge_method: linear\nmodels: [{{model: {first}+{one}}}, {{model: {second}+{two}}}]\n"
        "parameters: {weight: 0.5}\ndtype: float32\n",
    )
    expected = 0.5 * with_lora(first, one, QUERY) + 0.5 * with_lora(second, two, QUERY)
    assert torch.equal(found[QUERY], expected)
    expected = 0.5 * weights(first)[EMBEDDING] + 0.5 * weights(second)[EMBEDDING]
    assert torch.equal(found[EMBEDDING], expected)


def test_an_adapter_may_be_a_part_of_the_base_model(tiny: Tiny, made: Made, tmp_path: Path) -> None:
    adapter = made(tiny(), 1)
    found = built(
        tmp_path,
        f"merge_method: task_arithmetic\nbase_model: {tiny()}+{adapter}\n"
        f"models: [{{model: {tiny(1)}, parameters: {{weight: 0.5}}}}]\ndtype: float32\n",
    )
    start = with_lora(tiny(), adapter, DOWN)
    assert torch.equal(found[DOWN], start + 0.5 * (weights(tiny(1))[DOWN] - start))


def test_a_density_gradient_from_0_keeps_nothing_of_the_first_block(
    tiny: Tiny, tmp_path: Path
) -> None:
    text = f"merge_method: ties\nbase_model: {tiny()}\nmodels: [{{model: {tiny(1)}}}]\n"
    text += "parameters: {weight: 1, density: [0, 0.5, 1]}\ndtype: float32\n"
    found, base, other = built(tmp_path, text), weights(tiny()), weights(tiny(1))
    first, last = "model.layers.0.mlp.up_proj.weight", "model.layers.2.mlp.up_proj.weight"
    assert torch.equal(found[first], base[first])
    assert torch.equal(found[last], base[last] + (other[last] - base[last]))
    # half of the middle one's elements
    middle = "model.layers.1.mlp.up_proj.weight"
    assert int((found[middle] != base[middle]).sum()) == base[middle].numel() // 2
    assert torch.equal(found[EMBEDDING], base[EMBEDDING])  # the first value, as in mergekit


@pytest.mark.parametrize("t", [-0.5, 1.5])
def test_slerp_goes_on_beyond_its_ends(tiny: Tiny, tmp_path: Path, t: float) -> None:
    text = f"merge_method: slerp\nbase_model: {tiny()}\nmodels: [{{model: {tiny(1)}}}]\n"
    found = built(tmp_path, f"{text}parameters: {{t: {t}}}\ndtype: float32\n")[DOWN]
    a, b = weights(tiny())[DOWN].double(), weights(tiny(1))[DOWN].double()
    theta = torch.acos((a * b).sum() / (a.norm() * b.norm()))
    wanted = (torch.sin((1 - t) * theta) * a + torch.sin(t * theta) * b) / torch.sin(theta)
    assert torch.allclose(found.double(), wanted, rtol=1e-5, atol=1e-6)


def test_what_has_no_effect_is_told_and_kept_in_the_card(tiny: Tiny, tmp_path: Path) -> None:
    notes: list[str] = []
    text = f"merge_method: linear\nrandom_seed: 1\nmodels: [{{model: {tiny()}}}]\n"
    built(tmp_path, f"{text}parameters: {{weight: 1}}\ndtype: float32\n", notes)
    assert notes == [f"{tmp_path}/merge.yaml: random_seed: mergekit ignores this key."]
    assert notes[0] in (tmp_path / "out" / "README.md").read_text()


def test_rows_beyond_the_bases_are_left_out_and_the_cure_keeps_them(
    tiny: Tiny, tmp_path: Path
) -> None:
    words = ("<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(36)), "<|im_end|>")
    other = tiny(1, words=words)
    text = f"merge_method: linear\nmodels: [{{model: {tiny()}}}, {{model: {other}}}]\n"
    text += "parameters: {weight: 0.5}\ndtype: float32\n"
    found = built(tmp_path / "rows", text)[EMBEDDING]
    expected = 0.5 * weights(tiny())[EMBEDDING] + 0.5 * weights(other)[EMBEDDING][:40]
    assert torch.equal(found, expected)
    found = built(tmp_path / "union", f"{text}tokenizer_source: union\n")[EMBEDDING]
    assert torch.equal(found[:40], expected)
    assert torch.equal(found[40], weights(other)[EMBEDDING][40])


def test_the_cure_of_mixed_rows_works_in_a_mergekit_file(tiny: Tiny, tmp_path: Path) -> None:
    from evomerge.errors import PlanError

    words = ("<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in reversed(range(36))))
    other = tiny(1, words=words)
    text = f"merge_method: linear\nmodels: [{{model: {tiny()}}}, {{model: {other}}}]\n"
    text += "parameters: {weight: 0.5}\ndtype: float32\n"
    with pytest.raises(PlanError, match="in a mergekit file tokenizer_source: base"):
        built(tmp_path, text)
    found = built(tmp_path, f"{text}tokenizer_source: base\n")[EMBEDDING]
    own, theirs = weights(tiny())[EMBEDDING], weights(other)[EMBEDDING]
    assert torch.equal(found[4:], 0.5 * own[4:] + 0.5 * theirs[4:].flip(0))


def test_the_cure_of_a_missing_tensor_works_in_a_mergekit_file(tiny: Tiny, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny(1), other)
    tensors = weights(other)
    del tensors[DOWN]
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    text = f"merge_method: linear\nmodels: [{{model: {tiny()}}}, {{model: {other}}}]\n"
    text += "parameters: {weight: [0.5, 0.5, 1]}\ndtype: float32\n"
    with pytest.raises(InputError) as caught:
        built(tmp_path, text)
    cure = re.search(r"allow_missing: \[.*?\]", str(caught.value))
    assert cure is not None
    notes: list[str] = []
    found = built(tmp_path, f"{text}{cure[0]}\n", notes)
    assert torch.equal(found[DOWN], weights(tiny())[DOWN])
    assert any("lacks 1 tensor" in note for note in notes)


def test_the_cure_of_an_adapter_in_place_of_a_model_works(
    tiny: Tiny, made: Made, tmp_path: Path
) -> None:
    adapter = made(tiny(), 3)
    text = "merge_method: passthrough\nmodels: [{{model: {0}}}]\ndtype: float32\n"
    with pytest.raises(InputError, match=r"in a mergekit file as model\+adapter"):
        built(tmp_path, text.format(adapter))
    found = built(tmp_path, text.format(f"{tiny()}+{adapter}"))
    assert torch.equal(found[DOWN], with_lora(tiny(), adapter, DOWN))


def test_the_command_tells_notes_and_refuses_other_programs_files(
    tiny: Tiny, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    file = tmp_path / "merge.yaml"
    text = f"merge_method: model_stock\nbase_model: {tiny()}\nmodels:\n"
    text += f"- {{model: {tiny(1)}, parameters: {{weight: 1}}}}\n- {{model: {tiny(2)}}}\n"
    file.write_text(text)
    done = cli("build", file, tmp_path / "out")
    said = (
        "models.0.parameters.weight: mergekit's model_stock has no such parameter, and ignores it."
    )
    assert (done.returncode, done.stderr) == (0, f"note: {file}: {said}\n")
    file.write_text("gate_mode: random\nbase_model: x\nexperts: [{source_model: y}]\n")
    done = cli("build", file, tmp_path / "other")
    assert done.returncode == 2
    assert "a file of mergekit-moe" in done.stderr
