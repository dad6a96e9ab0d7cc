"""Sources in another key layout than the base's, merged as Transformers loads them."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from two_layouts import FAMILIES, LAYOUTS, Family, as_memory_has_it, made, saved

from evomerge.errors import CheckpointError, PlanError
from evomerge.recipes import Recipe
from evomerge.weights.build import build
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.layouts.rearranged import Rearranged
from evomerge.weights.library import Library
from evomerge.weights.statistics import Manifest

FEW = ("mixtral", "qwen2_vl", "llava")
OTHERS = [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in FAMILIES]
BERT = Family(
    "BertForMaskedLM",
    "BertConfig",
    {
        **{"vocab_size": 48, "hidden_size": 32, "intermediate_size": 48},
        **{"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64},
    },
)


def half(base: Path, theirs: Path, **settings: Any) -> Recipe:
    keys = {"operator": "linear", "parameters": {"weight": 0.5}, "dtype": "float32", **settings}
    sources = {"mine": str(base), "theirs": str(theirs)}
    return Recipe.model_validate({"base": str(base), "sources": sources, **keys})


def loads(kind: str, folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder in memory; nothing is missing and nothing left over."""
    import transformers

    model, report = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    state: dict[str, Tensor] = model.state_dict()
    return state


def mean(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: 0.5 * a[name] + 0.5 * b[name] for name in a if a[name].is_floating_point()}


def assert_equal(got: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    wrong = [name for name in expected if not torch.equal(got[name], expected[name])]
    assert not wrong


def names_in(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return set(file.keys())


@pytest.mark.parametrize("name", OTHERS)
def test_models_in_either_layout_merge_to_what_their_state_dicts_give(
    name: str, tmp_path: Path
) -> None:
    models = [made(FAMILIES[name], seed) for seed in (0, 1)]
    expected = mean(*(model.state_dict() for model in models))
    for ours, save_ours in LAYOUTS.items():
        base = save_ours(models[0], tmp_path / ours / "base")
        for theirs, save_theirs in LAYOUTS.items():
            if ours == theirs:
                continue
            source = save_theirs(models[1], tmp_path / ours / "source")
            assert names_in(source) != names_in(base)
            merged = build(half(base, source), tmp_path / ours / "merged")
            assert names_in(merged) == names_in(base)
            assert_equal(loads(FAMILIES[name].model, merged), expected)


@pytest.fixture(scope="module")
def berts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, str], Path]:
    """BERT by seed: as it is, without the prefix, with old names of norms, its backbone alone."""
    root = tmp_path_factory.mktemp("bert")

    def make(seed: int, how: str) -> Path:
        folder = root / f"{seed}-{how}"
        if folder.exists():
            return folder
        model = made(BERT, seed)
        state = {n: t for n, t in model.state_dict().items() if "decoder" not in n}
        kind = "BertForMaskedLM"
        if how == "old":
            state = {_old(name): tensor for name, tensor in state.items()}
        elif how != "whole":
            state = {name.removeprefix("bert."): tensor for name, tensor in state.items()}
        if how == "backbone":
            state = {n: t for n, t in state.items() if not n.startswith("cls.")}
            kind = "BertModel"
        return saved(model, folder, state, kind)

    return make


def _old(name: str) -> str:
    gamma = name.replace("LayerNorm.weight", "LayerNorm.gamma")
    return gamma.replace("LayerNorm.bias", "LayerNorm.beta")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("whole", "without"),
        ("without", "whole"),
        ("whole", "old"),
        ("old", "without"),
        ("whole", "backbone"),
        ("backbone", "whole"),
    ],
)
def test_prefixes_of_the_backbone_are_added_and_removed(
    berts: Callable[[int, str], Path], ours: str, theirs: str, tmp_path: Path
) -> None:
    base, source = berts(0, ours), berts(1, theirs)
    merged = load_file(build(half(base, source), tmp_path / "merged") / "model.safetensors")
    states = [load_file(berts(seed, "whole") / "model.safetensors") for seed in (0, 1)]
    halves = mean(*states)
    for name in load_file(base / "model.safetensors"):
        own = name.replace("gamma", "weight").replace("beta", "bias")
        own = own if own in halves else f"bert.{own}"
        lacking = theirs == "backbone" and own.startswith("cls.")
        assert torch.equal(merged[name], states[0][own] if lacking else halves[own]), name


def test_a_source_is_loaded_by_its_own_class_where_the_base_s_does_not_know_its_names(
    tmp_path: Path,
) -> None:
    whole = [made(FAMILIES["qwen2_vl"], seed) for seed in (0, 1)]
    base = as_memory_has_it(whole[0].model, tmp_path / "backbone")
    source = as_memory_has_it(whole[1], tmp_path / "whole")
    view = opened(base, source)
    for name, tensor in whole[1].model.state_dict().items():
        assert torch.equal(view.read(name), tensor), name


@pytest.mark.parametrize("ours", LAYOUTS)
def test_a_language_model_alone_is_merged_with_that_of_a_model_that_sees(
    ours: str, tmp_path: Path
) -> None:
    seeing = made(FAMILIES["llava"], 0)
    base = LAYOUTS[ours](seeing, tmp_path / "base")
    text = dict(FAMILIES["llava"].keys["text_config"])
    alone = made(Family("LlamaForCausalLM", "LlamaConfig", text), 1)
    merged = build(half(base, LAYOUTS["files"](alone, tmp_path / "alone")), tmp_path / "merged")
    state, before = loads(FAMILIES["llava"].model, merged), seeing.state_dict()
    inner = "model.language_model."
    theirs = {n.replace("model.", inner): t for n, t in alone.state_dict().items()}
    for name, tensor in before.items():
        mixed = 0.5 * tensor + 0.5 * theirs[name] if name in theirs else tensor
        assert torch.equal(state[name], mixed), name


@pytest.mark.parametrize("ours", LAYOUTS)
@pytest.mark.parametrize("older", [False, True])
def test_an_adapter_s_names_are_found_in_a_base_of_either_layout(
    ours: str, older: bool, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    model = made(FAMILIES["llava"], 0)
    base = LAYOUTS[ours](model, tmp_path / "base")
    config = LoraConfig(r=2, lora_alpha=4, target_modules=r".*language_model.*(q_proj|down_proj)")
    adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(tmp_path / "adapter")
    if older:  # as a PEFT saved it for which the modules had the names that files still have
        file = tmp_path / "adapter" / "adapter_model.safetensors"
        names = ("model.model.language_model", "model.language_model.model")
        save_file({n.replace(*names): t for n, t in load_file(file).items()}, file)
    recipe = Recipe(
        base=str(base),
        sources={"adapter": str(tmp_path / "adapter")},
        operator="linear",
        dtype="float32",
    )
    state = loads("LlavaForConditionalGeneration", build(recipe, tmp_path / "merged"))
    expected = adapted.merge_and_unload().state_dict()
    for name in expected:
        torch.testing.assert_close(state[name], expected[name], rtol=0, atol=1e-6)


def opened(base: Path, source: Path) -> Checkpoint:
    return Library().open(str(base), {"source": str(source)}).sources["source"]


def test_a_model_of_the_same_names_is_left_as_it_is(tiny: Callable[..., Path]) -> None:
    assert type(opened(tiny(0), tiny(1))) is Checkpoint


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base in the layout of files, and one and the same source in both."""
    root = tmp_path_factory.mktemp("mixtral")
    base = made(FAMILIES["mixtral"], 0)
    folders = {"base": LAYOUTS["files"](base, root / "base")}
    source = made(FAMILIES["mixtral"], 1)
    return folders | {how: save(source, root / how) for how, save in LAYOUTS.items()}


def test_a_rearranged_source_is_the_same_model_in_all_that_is_asked_of_it(
    mixtral: dict[str, Path],
) -> None:
    plain, view = (opened(mixtral["base"], mixtral[how]) for how in ("files", "memory"))
    assert isinstance(view, Rearranged)
    assert view.note.startswith("26 tensors, model.layers.0.block_sparse_moe.experts.0.w1.weight")
    assert view.places == plain.places
    assert {n: i.shape for n, i in view.tensors.items()} == {
        n: i.shape for n, i in plain.tensors.items()
    }
    assert (view.layers, view.embedding, view.head, view.tied, view.token_tables) == (
        *(plain.layers, plain.embedding, plain.head, plain.tied, plain.token_tables),
    )
    assert all(torch.equal(view.read(name), plain.read(name)) for name in view.tensors)
    assert view.fingerprint == Checkpoint(mixtral["memory"]).fingerprint


@pytest.mark.parametrize("operator", ["ties", "dare_linear", "sce"])
def test_other_operators_give_the_bytes_that_the_base_s_layout_gives(
    mixtral: dict[str, Path], operator: str, tmp_path: Path
) -> None:
    merged = []
    for how in LAYOUTS:
        keys = {"base": str(mixtral["base"]), "sources": {"s": str(mixtral[how])}}
        recipe = Recipe.model_validate({**keys, "operator": operator, "dtype": "bfloat16"})
        folder = build(recipe, tmp_path / how)
        merged.append((folder / "model.safetensors").read_bytes())
    assert merged[0] == merged[1]


def test_blocks_of_a_deeper_source_in_another_layout_are_stacked(
    mixtral: dict[str, Path], tmp_path: Path
) -> None:
    family = FAMILIES["mixtral"]
    deep = made(family._replace(keys={**family.keys, "num_hidden_layers": 4}), 2)
    source = as_memory_has_it(deep, tmp_path / "deep")
    slices = [{"mine": [0, 2]}, {"deep": [3, 4]}]
    recipe = Recipe.model_validate(
        {
            "base": str(mixtral["base"]),
            "sources": {"mine": str(mixtral["base"]), "deep": str(source)},
            **{"operator": "linear", "dtype": "float32", "slices": slices},
        }
    )
    state = loads(family.model, build(recipe, tmp_path / "stack"))
    theirs = deep.state_dict()
    block = {n: t for n, t in state.items() if n.startswith("model.layers.2.")}
    assert_equal(block, {n: theirs[n.replace(".2.", ".3.", 1)] for n in block})
    assert len(block) == len([n for n in theirs if n.startswith("model.layers.3.")])


def recorded(layout: str, of: Path, folder: Path) -> Path:
    """Statistics of a source, that are the squares of another model's weights."""
    LAYOUTS[layout](made(FAMILIES["mixtral"], 5), folder)
    squares = {n: t.square() for n, t in load_file(folder / "model.safetensors").items()}
    save_file(squares, folder / "statistics.safetensors")
    (folder / "model.safetensors").unlink()
    content = {
        **{"evomerge": "0", "kind": "fisher", "model": "m", "examples": 1, "tokens": 2},
        **{"data": {"text": "x.txt"}, "data_digest": "d", "max_length": 3, "seed": 0},
        "fingerprint": Checkpoint(of).fingerprint,
    }
    manifest = Manifest.model_validate(content)
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return folder


def test_statistics_of_a_source_are_rearranged_with_it(
    mixtral: dict[str, Path], tmp_path: Path
) -> None:
    merged = []
    for how in LAYOUTS:
        folder = recorded(how, mixtral[how], tmp_path / f"statistics-{how}")
        keys = {"base": str(mixtral["base"]), "sources": {"s": str(mixtral[how])}}
        recipe = Recipe.model_validate(
            {**keys, "operator": "fisher", "dtype": "float32", "statistics": {"s": str(folder)}}
        )
        merged.append(load_file(build(recipe, tmp_path / how) / "model.safetensors"))
    assert_equal(merged[1], merged[0])


def changed(folder: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    copy = tmp_path / "changed"
    shutil.copytree(folder, copy)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def test_a_damaged_tensor_of_another_layout_is_named_as_its_file_has_it(
    mixtral: dict[str, Path], tmp_path: Path
) -> None:
    name = "model.layers.1.mlp.experts.gate_up_proj"

    def damage(tensors: dict[str, Tensor]) -> None:
        tensors[name][2, 5, 7] = torch.nan

    source = changed(mixtral["memory"], tmp_path, damage)
    with pytest.raises(CheckpointError, match=f"{name} holds 1 NaN"):
        build(half(mixtral["base"], source), tmp_path / "merged")


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (["model.layers.0.block_sparse_moe.experts.3.w1.weight"], "cannot join"),
        (
            [f"model.layers.0.block_sparse_moe.experts.3.w{n}.weight" for n in (1, 2, 3)],
            r"experts.2.w2.weight: make model.layers.0.mlp.experts.down_proj of \(3, 32, 48\)",
        ),
    ],
)
def test_experts_that_are_missing_are_refused(
    mixtral: dict[str, Path], lost: list[str], said: str, tmp_path: Path
) -> None:
    source = changed(mixtral["files"], tmp_path, lambda tensors: [tensors.pop(n) for n in lost])
    base = as_memory_has_it(made(FAMILIES["mixtral"], 0), tmp_path / "base")
    with pytest.raises(CheckpointError, match=said):
        opened(base, source)


@pytest.mark.parametrize("matrices", [(2,), (1, 2, 3)])
@pytest.mark.parametrize("where", ["base", "source"])
def test_a_part_of_what_is_one_tensor_in_memory_is_missed_in_either_model(
    mixtral: dict[str, Path], matrices: tuple[int, ...], where: str, tmp_path: Path
) -> None:
    lost = [f"model.layers.0.block_sparse_moe.experts.3.w{n}.weight" for n in matrices]
    poor = changed(mixtral["files"], tmp_path, lambda tensors: [tensors.pop(n) for n in lost])
    folders = [mixtral["base"], poor] if where == "source" else [poor, mixtral["base"]]
    with pytest.raises(PlanError, match=rf"lacks {len(lost)} tensors? that .* {lost[0]}"):
        build(half(*folders), tmp_path / "merged")


def test_names_that_no_rule_maps_are_refused_with_those_of_both(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    def rename(tensors: dict[str, Tensor]) -> None:
        for name in [n for n in tensors if "q_proj" in n]:
            tensors[name.replace("q_proj", "query")] = tensors.pop(name)

    source = changed(tiny(1), tmp_path, rename)
    with pytest.raises(CheckpointError) as refused:
        opened(tiny(0), source)
    (sentence,) = refused.value.problems
    assert "model.layers.0.self_attn.query.weight" in sentence
    assert "model.layers.0.self_attn.q_proj.weight" in sentence


def test_a_config_that_transformers_does_not_know_leaves_names_as_they_are(
    mixtral: dict[str, Path], tmp_path: Path
) -> None:
    folders = []
    for how in ("base", "memory"):
        shutil.copytree(mixtral[how], tmp_path / how)
        config = json.loads((mixtral[how] / "config.json").read_text())
        config |= {"model_type": "none_of_them", "architectures": ["NoneOfThem"]}
        (tmp_path / how / "config.json").write_text(json.dumps(config))
        folders.append(tmp_path / how)
    with pytest.raises(CheckpointError, match="declares no rule"):
        opened(*folders)
