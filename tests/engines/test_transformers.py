"""Stacks of any depth in one Transformers engine, against the checkpoints built from them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.engines.transformers import TransformersEngine
from evomerge.errors import PlanError
from evomerge.recipes import Recipe
from evomerge.weights.build import build
from evomerge.weights.library import Library
from evomerge.weights.plan import Plan

Tiny = Callable[..., Path]
Hop = tuple[str, int]  # the models whose blocks are merged, and which block
PROMPTS = torch.tensor([[5, 6, 7, 8, 30, 31, 9, 4, 22], [9, 11, 3, 21, 4, 5, 5, 5, 35]])

DEEPEST = [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("b", 2), ("a", 1), ("a", 2)]
PATHS = {
    "deepest": DEEPEST,
    "shallow": [("a", 0), ("a", 2)],
    "repeats": [("a", 0), ("b", 1), ("b", 1), ("b", 1), ("a", 2)],
    "as deep as a model": [("a", 0), ("b", 1), ("a", 2)],
    "merged blocks": [("ab", 0), ("a", 0), ("ab", 1), ("ab", 1), ("b", 2), ("a", 2)],
}


class Bench(NamedTuple):
    """Two models, of which engines hold stacks."""

    models: dict[str, str]
    library: Library

    def recipe(self, path: Sequence[Hop] = (), **keys: Any) -> Recipe:
        """Blocks of one model each or, for ``ab``, of both."""
        content = {
            **{"base": self.models["a"], "sources": self.models, "operator": "linear"},
            "slices": [{name: [block, block + 1] for name in names} for names, block in path],
            "dtype": "float32",
        }
        return Recipe.model_validate(content | keys)

    def plan(self, recipe: Recipe) -> Plan:
        return self.library.plan(recipe)

    def open(self, recipe: Recipe) -> TransformersEngine:
        engine = TransformersEngine()
        engine.open(self.library.models(recipe))
        return engine


@pytest.fixture
def bench(tiny: Tiny) -> Bench:
    return Bench({"a": str(tiny(1)), "b": str(tiny(2))}, Library())


def answers(engine: TransformersEngine) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the prompts, and greedy tokens made with a cache of keys and values."""
    live: Any = engine.lm
    tokens = live.model.generate(PROMPTS, max_new_tokens=12, do_sample=False, eos_token_id=None)
    with torch.no_grad():
        return live.model(PROMPTS).logits, tokens


def rebuilt(
    recipe: Recipe, out: Path, scales: Sequence[float] = ()
) -> tuple[torch.Tensor, torch.Tensor]:
    """The answers of the checkpoint on disk, the stream scaled on its way into each block."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(build(recipe, out), dtype=torch.float32).eval()
    for block, scale in zip(model.model.layers, scales, strict=False):
        block.register_forward_pre_hook(lambda _, args, s=scale: (args[0] * s, *args[1:]))
    tokens = model.generate(PROMPTS, max_new_tokens=12, do_sample=False, eos_token_id=None)
    with torch.no_grad():
        return model(PROMPTS).logits, tokens


def equal(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "tied": {"tied": True},
    "bfloat16": {"dtype": "bfloat16"},
    # the second block of three sees two tokens back
    "qwen2": {"family": "qwen2", "window": 2, "kinds": "fsf"},
    "gemma3": {"family": "gemma3_text", "window": 2, "kinds": "sfs"},
}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, tiny: Tiny, tmp_path: Path) -> Bench:
    options = dict(FAMILIES[request.param])
    if "family" not in options:
        return Bench({n: str(tiny(s, **options)) for n, s in (("a", 1), ("b", 2))}, Library())
    return Bench({n: str(_windowed(tiny, tmp_path / n, n, **options)) for n in "ab"}, Library())


def _windowed(tiny: Tiny, out: Path, name: str, family: str, window: int, kinds: str) -> Path:
    """A model whose blocks differ in how far back they see."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(tiny(), out)
    known = {"f": "full_attention", "s": "sliding_attention"}
    own = kinds if name == "a" else kinds[::-1].replace(kinds[0], kinds[1], 1)
    config = AutoConfig.for_model(
        family,
        **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "head_dim": 8},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40},
        **{"sliding_window": window, "layer_types": [known[kind] for kind in own]},
        **{"use_sliding_window": True, "max_window_layers": 0, "tie_word_embeddings": False},
        **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    )
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(ord(name))
    for parameter in model.parameters():
        noise = 0.3 * torch.randn(parameter.shape, generator=generator)
        parameter.data = noise + float(parameter.dim() == 1)
    model.save_pretrained(out)
    return out


def test_one_engine_answers_every_path_exactly_as_its_checkpoint(
    family: Bench, tmp_path: Path
) -> None:
    engine = family.open(family.recipe(DEEPEST))
    seen = []
    for name, path in PATHS.items():
        recipe = family.recipe(path, dtype="bfloat16")
        engine.load(family.plan(recipe))
        found = answers(engine)
        assert equal(found, rebuilt(recipe, tmp_path / name)), name
        seen.append(found[0])
    plain = family.recipe()
    engine.load(family.plan(plain))
    assert equal(answers(engine), rebuilt(plain, tmp_path / "plain"))
    engine.load(family.plan(family.recipe(PATHS["deepest"], dtype="bfloat16")))
    assert torch.equal(answers(engine)[0], seen[0])
    assert len({logits.sum().item() for logits in seen}) == len(PATHS)


SCALES = {
    "deepest": [1.2, 0.8, -0.9, 1.1, 0.7, 1.3, -1.0, 0.6],
    "repeats": [0.9, -1.1, 0.8, -0.7, -1.2],
}


def test_scales_are_those_of_the_checkpoint_and_of_the_whole_stream(
    family: Bench, tmp_path: Path
) -> None:
    engine = family.open(family.recipe(DEEPEST))
    for name, scales in SCALES.items():
        unscaled = family.recipe(PATHS[name])
        recipe = unscaled.model_copy(update={"scales": tuple(scales)})
        engine.load(family.plan(recipe))
        logits, tokens = answers(engine)
        assert equal((logits, tokens), rebuilt(recipe, tmp_path / name))
        explicit, same = rebuilt(unscaled, tmp_path / f"{name} without", scales)
        assert torch.equal(tokens, same)
        assert torch.allclose(logits, explicit, rtol=1e-4, atol=1e-4 * float(explicit.abs().max()))
        engine.load(family.plan(unscaled))
        assert not torch.allclose(answers(engine)[0], explicit, rtol=0.1)


def weights(engine: TransformersEngine) -> dict[str, int]:
    """Name to address."""
    live: Any = engine.lm
    return {name: tensor.data_ptr() for name, tensor in live.model.named_parameters()}


def test_blocks_that_repeat_share_their_weights_and_have_a_cache_of_their_own(
    bench: Bench,
) -> None:
    engine = bench.open(bench.recipe(DEEPEST))
    engine.load(bench.plan(bench.recipe(PATHS["repeats"])))
    live: Any = engine.lm
    blocks = live.model.model.layers
    addresses = [[p.data_ptr() for p in block.parameters()] for block in blocks]
    assert addresses[1] == addresses[2] == addresses[3]
    assert len({tuple(block) for block in addresses}) == 3
    scaled = bench.recipe(PATHS["repeats"], scales=SCALES["repeats"])
    engine.load(bench.plan(scaled))
    blocks = live.model.model.layers
    one, two = (dict(block.named_parameters()) for block in blocks[1:3])
    own = {name for name in one if one[name].data_ptr() != two[name].data_ptr()}
    assert own == {"self_attn.o_proj.weight", "mlp.down_proj.weight"}
    assert [block.self_attn.layer_idx for block in blocks] == [0, 1, 2, 3, 4]
    assert live.config.num_hidden_layers == live.model.config.num_hidden_layers == 5


def test_another_path_over_the_same_blocks_keeps_their_memory(bench: Bench) -> None:
    engine = bench.open(bench.recipe(DEEPEST))
    engine.load(bench.plan(bench.recipe(DEEPEST)))
    held = set(weights(engine).values())
    for path in (PATHS["shallow"], PATHS["repeats"], DEEPEST[:5] * 2 + DEEPEST[-1:]):
        engine.load(bench.plan(bench.recipe(path)))
        assert set(weights(engine).values()) <= held


def test_a_plain_candidate_is_merged_in_place_before_and_after_a_stack(bench: Bench) -> None:
    engine = bench.open(bench.recipe())
    plain = bench.plan(bench.recipe())
    engine.load(plain)
    before, held = answers(engine), weights(engine)
    engine.load(bench.plan(bench.recipe(PATHS["repeats"])))
    assert not equal(answers(engine), before)
    engine.load(plain)
    assert equal(answers(engine), before)
    assert weights(engine) == held


def test_a_stack_that_cannot_be_merged_is_forgotten_by_the_next(bench: Bench) -> None:
    engine = bench.open(bench.recipe(DEEPEST))
    good = bench.plan(bench.recipe(PATHS["repeats"]))
    engine.load(good)
    before = answers(engine)
    overflow = {"weight": 1e30, "normalize": False}
    bad = bench.recipe(PATHS["merged blocks"], dtype="float16", parameters=overflow)
    with pytest.raises(Exception, match="float16 cannot hold"):
        engine.load(bench.plan(bad))
    engine.load(good)
    assert equal(answers(engine), before)


def test_a_stack_that_transformers_cannot_hold_is_refused_before_any_work(
    tiny: Tiny, tmp_path: Path
) -> None:
    strange = tmp_path / "strange"
    shutil.copytree(tiny(1), strange)
    tensors = load_file(strange / "model.safetensors")
    tensors["model.layers.1.adapter.weight"] = torch.zeros(3)
    save_file(tensors, strange / "model.safetensors", metadata={"format": "pt"})
    bench = Bench({"a": str(strange), "b": str(tiny(2))}, Library())
    engine = TransformersEngine()  # not open
    engine.validate(bench.plan(bench.recipe([("a", 0), ("b", 0), ("a", 2)])))
    with pytest.raises(PlanError, match=r"2 tensors, model.layers.1.adapter.weight first"):
        engine.validate(bench.plan(bench.recipe([("a", 0), ("a", 1), ("a", 1), ("a", 2)])))
