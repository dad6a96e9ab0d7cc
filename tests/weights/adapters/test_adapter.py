"""LoRA adapters as sources, against what PEFT merges in float32."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evomerge.errors import CandidateError, CheckpointError, ExportError, InputError
from evomerge.recipes import Recipe
from evomerge.recipes.mergekit.write import to_mergekit
from evomerge.weights.adapters.adapter import Adapter
from evomerge.weights.build import build
from evomerge.weights.checkpoint import Checkpoint
from evomerge.weights.lazy_rows import LowRank
from evomerge.weights.library import Library
from evomerge.weights.merge import merge

Tiny = Callable[..., Path]
Made = Callable[..., Path]
Q = "model.layers.0.self_attn.q_proj"
KEY = f"base_model.model.{Q}"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def merged_by_peft(base: Path, adapter: Path) -> dict[str, Tensor]:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    found: dict[str, Tensor] = merged.state_dict()
    return found


def recipe(base: Path, *sources: Path | Recipe, **keys: Any) -> Recipe:
    named = {
        f"s{number}": source if isinstance(source, Recipe) else str(source)
        for number, source in enumerate(sources, start=1)
    }
    settings = {"operator": "linear", "dtype": "float32", **keys}
    return Recipe.model_validate({"base": str(base), "sources": named, **settings})


def weights(recipe: Recipe) -> dict[str, Tensor]:
    return dict(merge(Library().plan(recipe)))


def changed(folder: Path, out: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    shutil.copytree(folder, out)
    tensors = load_file(out / "adapter_model.safetensors")
    change(tensors)
    apart = {name: tensor.clone() for name, tensor in tensors.items()}
    save_file(apart, out / "adapter_model.safetensors")
    return out


def reconfigured(folder: Path, **keys: Any) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    return folder


def refusals(base: Path, *adapters: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        Library().models(recipe(base, *adapters))
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {
            "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 6},
            "alpha_pattern": {"q_proj": 3},
        },
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["lm_head", "v_proj"]},
        {"modules_to_save": ["lm_head"]},
        {"use_dora": True},
    ],
)
def test_an_adapter_is_what_peft_merges(zoo: Path, made: Made, settings: dict[str, Any]) -> None:
    adapter = made(zoo / "base", **settings)
    expected = merged_by_peft(zoo / "base", adapter)
    found = weights(recipe(zoo / "base", adapter))
    assert found.keys() == expected.keys()
    moved = 0
    for name, tensor in weights(recipe(zoo / "base", zoo / "base")).items():
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-6)
        moved += not torch.equal(found[name], tensor)
    assert moved >= 2


def test_layers_that_store_their_weights_as_in_out_and_biases_follow_peft(
    tmp_path: Path, made: Made
) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=20, n_positions=8)
    model = GPT2LMHeadModel(config)
    for number, parameter in enumerate(model.parameters()):
        parameter.data = torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(number)
        )
    model.save_pretrained(tmp_path / "gpt2")
    targets = ["c_attn", "attn.c_proj"]  # the second one is square
    adapter = made(
        tmp_path / "gpt2", target_modules=targets, fan_in_fan_out=True, lora_bias=True, bias="all"
    )
    expected = merged_by_peft(tmp_path / "gpt2", adapter)
    for name, tensor in weights(recipe(tmp_path / "gpt2", adapter)).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("operator", "parameters"),
    [
        ("task_arithmetic", {"weight": {"s1": 0.7, "s2": -0.4}}),
        ("ties", {"density": 0.5}),
        ("dare_ties", {"density": 0.5}),
        ("slerp", {"t": 0.3}),
        ("iso_c", {}),
    ],
)
def test_operators_see_the_merged_model(
    tiny: Tiny, made: Made, tmp_path: Path, operator: str, parameters: dict[str, Any]
) -> None:
    adapters = [made(tiny(), seed) for seed in (1, 2)]
    folders = [build(recipe(tiny(), a), tmp_path / f"whole-{n}") for n, a in enumerate(adapters)]
    settings = {"operator": operator, "parameters": parameters}
    found, expected = (weights(recipe(tiny(), *s, **settings)) for s in (adapters, folders))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_an_adapter_may_be_mixed_with_models_and_recipes(tiny: Tiny, made: Made) -> None:
    adapter = made(tiny())
    inner = recipe(tiny(), adapter, tiny(1), operator="task_arithmetic")
    outer = weights(recipe(tiny(), inner, tiny(2), adapter, parameters={"weight": 1.0}))
    assert all(tensor.isfinite().all() for tensor in outer.values())
    twice = weights(recipe(tiny(), adapter, adapter))
    once = weights(recipe(tiny(), adapter))
    assert all(torch.equal(twice[name], tensor) for name, tensor in once.items())


def test_the_same_adapter_on_two_bases_is_two_models(tiny: Tiny, made: Made) -> None:
    adapter = made(tiny())
    inner = recipe(tiny(1), adapter)
    both = weights(recipe(tiny(), adapter, inner))
    here, there = weights(recipe(tiny(), adapter)), weights(inner)
    name = f"{Q}.weight"
    assert not torch.equal(here[name], there[name])
    torch.testing.assert_close(both[name], (here[name] + there[name]) / 2)


def test_rows_do_not_depend_on_how_many_are_read_together() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((37, 23), (37, 5), (5, 23), (37,))
    weight, left, right, lengths = (torch.randn(s, generator=generator) for s in shapes)
    for magnitude in (None, lengths):
        rows = LowRank(weight.bfloat16(), left, right, 0.37, magnitude)
        whole = rows.whole().reshape(-1)
        for start, stop in ((0, 851), (0, 1), (22, 24), (100, 500), (850, 851)):
            assert torch.equal(rows.slice(start, stop), whole[start:stop])


def test_a_saved_head_unties_a_tied_base(tiny: Tiny, made: Made) -> None:
    base = tiny(tied=True)
    adapter = made(base, modules_to_save=["lm_head"])
    models = Library().models(recipe(base, adapter))
    assert models.untied
    saved = load_file(adapter / "adapter_model.safetensors")["base_model.model.lm_head.weight"]
    found = weights(recipe(base, adapter))
    assert torch.equal(found[HEAD], saved)
    assert not torch.equal(found[EMBEDDING], saved)


def test_an_adapter_speaks_with_the_tokenizer_of_its_base(tiny: Tiny, made: Made) -> None:
    base, adapter = Checkpoint(tiny()), made(tiny())
    assert Adapter(adapter, base).vocabulary == base.vocabulary
    shutil.copy(tiny(words=[f"x{n}" for n in range(40)]) / "tokenizer.json", adapter)
    with pytest.raises(InputError, match="numbers tokens differently"):
        Library().models(recipe(tiny(), adapter))


def test_the_fingerprint_follows_file_settings_and_base(
    tiny: Tiny, made: Made, tmp_path: Path
) -> None:
    base, adapter = Checkpoint(tiny()), made(tiny())

    def nudge(tensors: dict[str, Tensor]) -> None:
        tensors[f"{KEY}.lora_A.weight"][-1, -1] += 1

    folders = [adapter, changed(adapter, tmp_path / "nudged", nudge)]
    shutil.copytree(adapter, tmp_path / "louder")
    folders.append(reconfigured(tmp_path / "louder", lora_alpha=9))
    prints = [Adapter(folder, base).fingerprint for folder in folders]
    prints.append(Adapter(adapter, Checkpoint(tiny(dtype="bfloat16"))).fingerprint)
    assert len(set(prints)) == 4
    shutil.copytree(adapter, tmp_path / "elsewhere")
    assert Adapter(tmp_path / "elsewhere", Checkpoint(tiny())).fingerprint == prints[0]


def test_nan_in_an_adapter_names_its_file(tiny: Tiny, made: Made, tmp_path: Path) -> None:
    def spoil(tensors: dict[str, Tensor]) -> None:
        tensors[f"{KEY}.lora_B.weight"][0, 0] = float("nan")

    folder = changed(made(tiny()), tmp_path / "nan", spoil)
    with pytest.raises(CheckpointError, match=r"nan/adapter_model.safetensors: tensor .*q_proj"):
        weights(recipe(tiny(), folder))
    (sentence,) = Adapter(folder, Checkpoint(tiny())).non_finite()
    assert "lora_B" in sentence


def test_a_sum_that_is_too_large_is_the_candidates_fault(
    tiny: Tiny, made: Made, tmp_path: Path
) -> None:
    def swell(tensors: dict[str, Tensor]) -> None:
        for part in "AB":
            tensors[f"{KEY}.lora_{part}.weight"][:] = 1e30

    folder = changed(made(tiny()), tmp_path / "large", swell)
    with pytest.raises(CandidateError, match="q_proj"):
        weights(recipe(tiny(), folder))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA', expected 'LORA'. Merge it into its base"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication: it repeats blocks"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices: it replaces single token"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens: it works after"),
        ({"use_qalora": True}, "use_qalora"),
        ({"target_parameters": ["experts.up"]}, "target_parameters: it changes parameters"),
        ({"top_k": 8}, "top_k: nobody here knows what this key does"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4', which changes the base too"),
        ({"r": 0}, "r: expected a whole number above 0, got 0"),
        ({"lora_alpha": "8"}, "lora_alpha: expected a number, got '8'"),
        ({"rank_pattern": {"q_proj": 1.5}}, "rank_pattern.q_proj: expected a number above 0"),
        ({"alpha_pattern": {"(": 1}}, "alpha_pattern.(: not a regular expression"),
        ({"modules_to_save": "lm_head"}, "modules_to_save: expected a list"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save that its file lacks: lm_head"),
        ({"r": 8}, "q_proj has 4, expected 8"),
        ({"use_dora": True}, "layers that contradict use_dora"),
        ({"r": "x"}, "r: expected a whole number above 0, got 'x'"),
        ({"lora_alpha": 10**400}, "lora_alpha: expected a number, got a number of more"),
        ({"lora_alpha": math.nan}, "lora_alpha: expected a number, got nan"),
        ({"target_modules": 3}, "target_modules: expected a list of modules, got 3"),
        ({"target_modules": "(q_proj"}, "target_modules: '(q_proj' is not a regular expression"),
        ({"layers_to_transform": ["0"]}, "layers_to_transform: expected numbers of blocks, got"),
        ({"use_dora": "no"}, "use_dora: expected true or false, got 'no'"),
        ({"init_lora_weights": []}, "init_lora_weights: expected true, false or a word, got []"),
        (
            {"base_model_name_or_path": {"a": 1}},
            "base_model_name_or_path: expected a word, got {'a'",
        ),
    ],
)
def test_a_config_that_cannot_be_followed_is_refused_by_name(
    tiny: Tiny, made: Made, keys: dict[str, Any], said: str
) -> None:
    assert said in refusals(tiny(), reconfigured(made(tiny()), **keys))


def test_all_mistakes_of_all_adapters_come_at_once(tiny: Tiny, made: Made) -> None:
    one = reconfigured(made(tiny()), layer_replication=[[0, 1]], use_qalora=True)
    two = made(tiny())
    (two / "adapter_model.safetensors").unlink()
    said = refusals(tiny(), one, two)
    for part in ("layer_replication", "use_qalora", "lacks adapter_model.safetensors"):
        assert part in said


A, B = f"{KEY}.lora_A.weight", f"{KEY}.lora_B.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(B), f"layers with one of lora_A and lora_B only: {Q}. Save"),
        (lambda t: t.update({A: t[A].T.contiguous()}), "factors that are not (r, in) and (out, r)"),
        (lambda t: t.update({B: t[B][:-1].contiguous()}), f"another shape: {Q} is (32, 32) in the"),
        (lambda t: t.update({"other.lora_A.weight": t[A]}), "PEFT does not name so: other.lora_A"),
        (
            lambda t: t.update({"base_model.model.model.norm2.weight": t[A]}),
            "tensors that its base does not have: model.norm2.weight",
        ),
        (
            lambda t: t.update({k.replace("layers.0", "layers.7"): t[k] for k in (A, B)}),
            "layers that its base does not have: model.layers.7.self_attn.q_proj",
        ),
        (lambda t: t.update({A: t[A].to(torch.int8)}), "is stored as I8. Save it in full"),
        (lambda t: t.update({f"{KEY}.lora_B.bias": t[B][:, 0]}), "biases that its base does not"),
        (lambda t: t.clear(), "its file is empty"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    tiny: Tiny, made: Made, tmp_path: Path, change: Callable[[dict[str, Tensor]], Any], said: str
) -> None:
    assert said in refusals(tiny(), changed(made(tiny()), tmp_path / "wrong", change))


@pytest.mark.parametrize(
    "targets", [["q_proj", "down_proj"], r"model\.layers\..*(q_proj|down_proj)"]
)
def test_a_layer_that_is_changed_in_other_blocks_only_is_missed(
    tiny: Tiny, made: Made, tmp_path: Path, targets: Any
) -> None:
    def lose(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(KEY)]:
            del tensors[name]

    adapter = changed(made(tiny(), target_modules=targets), tmp_path / "lost", lose)
    said = refusals(tiny(), adapter)
    assert f"layers that it changes in other blocks and lacks in these: {Q}. Copy it again" in said
    reconfigured(adapter, exclude_modules=[Q])
    Library().models(recipe(tiny(), adapter))


@pytest.mark.parametrize(
    ("family", "keys", "copies"),
    [
        (
            "glm4_moe",  # a block for multi-token prediction
            {"n_routed_experts": 2, "moe_intermediate_size": 8, "first_k_dense_replace": 2},
            {"model.layers.2.": "model.layers.1."},
        ),
        (
            "gemma4_text",  # of blocks that share keys and values, Transformers makes those once
            {
                **{"num_kv_shared_layers": 1, "hidden_size_per_layer_input": 0},
                "layer_types": ["full_attention", "full_attention"],
            },
            {
                f"model.layers.1.self_attn.{part}_proj": f"model.layers.0.self_attn.{part}_proj"
                for part in "kv"
            },
        ),
    ],
)
def test_layers_that_transformers_does_not_build_are_not_missed(
    tmp_path: Path, made: Made, family: str, keys: dict[str, Any], copies: dict[str, str]
) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "vocab_size": 20, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes, **heads, **keys))
    model.save_pretrained(base := tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    for new, old in copies.items():
        found = {name.replace(old, new): tensors[name] for name in tensors if name.startswith(old)}
        assert found and not found.keys() & tensors.keys()
        tensors |= {name: tensor.clone() for name, tensor in found.items()}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    adapter = made(base, target_modules=["q_proj", "v_proj"])
    Library().models(recipe(base, adapter))
    key = f"{KEY}.lora_"
    lost = changed(adapter, tmp_path / "lost", lambda t: [t.pop(f"{key}{p}.weight") for p in "AB"])
    assert f"lacks in these: {Q}. Copy it again" in refusals(base, lost)


def test_an_adapter_of_some_blocks_lacks_nothing(tiny: Tiny, made: Made) -> None:
    for settings in (
        {"layers_to_transform": [1]},
        {"target_modules": ["layers.1.self_attn.q_proj", "down_proj"]},
        {"exclude_modules": ["layers.0.self_attn.q_proj"]},
    ):
        Library().models(recipe(tiny(), made(tiny(), **settings)))


def test_a_truncated_file_and_a_pickle_are_refused(tiny: Tiny, made: Made) -> None:
    cut, pickled = made(tiny()), made(tiny())
    file = cut / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    said = refusals(tiny(), cut, pickled)
    assert "truncated" in said
    assert f"evomerge convert {pickled} OUT" in said


def test_an_adapter_is_no_base_and_needs_one_that_opens(
    tiny: Tiny, made: Made, tmp_path: Path
) -> None:
    adapter = made(tiny())
    assert "holds an adapter, not a model" in refusals(adapter, tiny())
    said = refusals(tmp_path / "nowhere", adapter)
    assert "nowhere: no such folder" in said
    assert "holds an adapter" not in said  # it is none of its faults


def test_a_changed_embedding_that_is_also_the_head_is_refused(tiny: Tiny, made: Made) -> None:
    base = tiny(tied=True)
    adapter = made(base, target_modules=["embed_tokens"])
    assert "which is also the head in its base: model.embed_tokens" in refusals(base, adapter)


def test_a_base_of_another_name_is_noted(tiny: Tiny, made: Made) -> None:
    adapter = reconfigured(made(tiny()), base_model_name_or_path="org/other-7b")
    (note,) = Library().models(recipe(tiny(), adapter)).notes
    assert note.startswith("s1: the adapter says that it was made for org/other-7b")
    reconfigured(adapter, base_model_name_or_path=f"org/{tiny().name}")
    assert Library().models(recipe(tiny(), adapter)).notes == []


def test_an_export_to_mergekit_says_to_build_the_adapter_first(tiny: Tiny, made: Made) -> None:
    one = recipe(tiny(), made(tiny()))
    slots = Library().models(one).slots
    places = {slot.name: slot.place for slot in slots}
    shapes = {slot.name: slot.shape for slot in slots}
    with pytest.raises(ExportError, match=r"sources\.s1: mergekit rounds an adapter and its base"):
        to_mergekit(one, places, shapes)


def test_a_file_beside_an_adapters_own_is_noted(tiny: Tiny, made: Made) -> None:
    folder = made(tiny())
    save_file({"exp_avg": torch.ones(3)}, folder / "optimizer.safetensors")
    (folder / "adapter_config.json").write_text(
        (folder / "adapter_config.json").read_text().replace(str(tiny()), "")
    )
    assert Adapter(folder, Checkpoint(tiny())).note == (
        f"optimizer.safetensors in {folder}: not read, the model's weights are in "
        "adapter_model.safetensors."
    )
