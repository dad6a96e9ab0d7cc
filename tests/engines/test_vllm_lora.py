"""Candidates as LoRA adapters in a real vLLM, against their dense merges in another."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from evomerge.config.load import load
from evomerge.errors import ConfigError, PlanError
from evomerge.recipes import Recipe
from evomerge.weights.library import Library
from evomerge.yaml_files import dump_yaml

if importlib.util.find_spec("vllm") is None:
    pytest.skip("needs vllm", allow_module_level=True)

from evomerge.engines.vllm import VllmEngine

if TYPE_CHECKING:
    from lm_eval.api.model import LM

pytestmark = pytest.mark.xdist_group("vllm")  # which takes seconds to be imported
ZOO = Path(__file__).parents[2] / "experiments" / "zoo"
Made = Callable[..., Path]
CACHE = {"kv_cache_memory_bytes": 1 << 26}
# Longer than a block of the prefix cache, of 128 tokens; all begin alike.
PROMPTS = [("12+34=46;" * 16)[:140] + end for end in ("7+8=", "rev ab=")] + ["12+5=", "rev abc="]


def ask(lm: LM) -> tuple[list[str], list[float]]:
    """Greedy texts, and log-likelihoods of fixed continuations."""
    from lm_eval.api.instance import Instance

    def requests(kind: str, arguments: list[Any]) -> list[Any]:
        return [Instance(request_type=kind, doc={}, arguments=a, idx=0) for a in arguments]

    until = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}
    texts = lm.generate_until(requests("generate_until", [(p, dict(until)) for p in PROMPTS]))
    pairs = [(prompt, end) for prompt in PROMPTS for end in ("15", "cba")]
    return texts, [found for found, _ in lm.loglikelihood(requests("loglikelihood", pairs))]


class Pair(NamedTuple):
    """The same models in an engine that adds adapters, and in one that merges them."""

    lora: VllmEngine
    merged: VllmEngine
    sources: dict[str, str]

    def recipe(self, operator: str = "task_arithmetic", **keys: Any) -> Recipe:
        whole = {"base": str(ZOO / "base"), "sources": self.sources, "operator": operator}
        return Recipe.model_validate({"dtype": "float32", **whole, **keys})


@pytest.fixture(scope="module")
def pair(made: Made) -> Iterator[Pair]:
    targets = ["q_proj", "o_proj", "gate_proj", "down_proj"]
    sources = {
        "a": str(made(ZOO / "base", target_modules=targets)),
        "b": str(made(ZOO / "base", 2, r=6, use_rslora=True)),
    }
    lora = VllmEngine(vllm=CACHE, threads=1, adapters="lora")
    merged = VllmEngine(vllm=CACHE, threads=1)
    for engine in (lora, merged):
        engine.open(Library().open(str(ZOO / "base"), sources))
    yield Pair(lora, merged, sources)
    for engine in (lora, merged):
        engine.close()


def test_several_candidates_in_a_row_answer_as_their_dense_merges(pair: Pair) -> None:
    mixed = {"a": {"mlp": 0.0, "other": [0.2, 0.4, 0.6, 0.8]}, "b": {"mlp": -1.0, "other": 0.3}}
    one = {"b": pair.sources["b"]}
    recipes = [
        pair.recipe(parameters={"weight": {"a": 0.9, "b": -0.6}, "lam": 1.2}),
        pair.recipe("linear", sources=one),
        pair.recipe(parameters={"weight": mixed}),
        pair.recipe("linear", sources={"base": str(ZOO / "base")}),
        pair.recipe("linear", parameters={"weight": {"a": 1.0, "b": 3.0}}),
    ]
    recipes.append(recipes[0])  # none of those between has left anything behind
    ids, seen = [], []
    for recipe in recipes:
        answers = []
        for engine in (pair.lora, pair.merged):
            engine.load(Library().plan(recipe))
            answers.append(ask(engine.lm))
        (texts, likelihoods), (their_texts, their_likelihoods) = answers
        assert texts == their_texts
        assert likelihoods == pytest.approx(their_likelihoods, abs=1e-4, rel=0)
        lm: Any = pair.lora.lm
        ids.append(lm.lora_request and lm.lora_request.lora_int_id)
        seen.append(tuple(likelihoods))
    assert ids == [1, 2, 3, None, 4, 5]
    assert len(set(seen[:-1])) == 5
    assert seen[0] == seen[-1]


def test_one_adapter_is_kept_and_none_after_the_end(pair: Pair) -> None:
    lm: Any = pair.lora.lm
    for weight in (0.3, 0.4):
        pair.lora.load(Library().plan(pair.recipe(parameters={"weight": weight})))
        kept = Path(lm.lora_request.lora_path)
        assert [path.name for path in kept.parent.glob("candidate-*")] == [kept.name]
        assert lm.model.llm_engine.list_loras() == {lm.lora_request.lora_int_id}
    pair.lora.close()
    assert not kept.parent.exists()
    assert (ZOO / "base" / "model.safetensors").exists()  # it was linked, not moved
    pair.lora.open(Library().open(str(ZOO / "base"), pair.sources))


def test_what_is_no_sum_of_adapters_is_refused_before_anything_is_loaded(pair: Pair) -> None:
    with pytest.raises(PlanError, match="operator: ties adds up no adapters"):
        pair.lora.validate(Library().plan(pair.recipe("ties")))
    with pytest.raises(PlanError, match="operator: ties adds up no adapters"):
        pair.lora.load(Library().plan(pair.recipe("ties")))
    pair.merged.validate(Library().plan(pair.recipe("ties")))


def test_models_that_are_no_adapters_are_refused_at_the_start(made: Made) -> None:
    engine = VllmEngine(vllm=CACHE, threads=1, adapters="lora")
    with pytest.raises(PlanError, match="kanji: is no adapter of the base"):
        engine.open(Library().open(str(ZOO / "base"), {"kanji": str(ZOO / "kanji")}))
    big = str(made(ZOO / "base", r=300))
    with pytest.raises(PlanError, match="ranks add up to 600, vLLM takes 512"):
        engine.open(Library().open(str(ZOO / "base"), {"a": big, "b": big}))


def test_a_search_that_would_leave_the_adapters_is_refused_by_its_check(
    made: Made, tmp_path: Path
) -> None:
    search = tmp_path / "search.yaml"
    content = {
        **{"name": "x", "base": str(ZOO / "base"), "seed": 0, "fitness": "zoo_skills"},
        **{"sources": {"a": str(made(ZOO / "base"))}, "budget": {"evaluations": 2}},
        "engine": {"name": "vllm", "adapters": "lora"},
    }
    weights = {"weight": {"low": 0.0, "high": 1.0}}
    space = {"kind": "parameter", "operator": "task_arithmetic", "parameters": weights}
    search.write_text(dump_yaml({**content, "space": space}))
    assert load(search).search.setup.engine_options["adapters"] == "lora"
    wrong = {**space, "operator": ["task_arithmetic", "ties"]}
    search.write_text(dump_yaml({**content, "space": wrong}))
    with pytest.raises(ConfigError, match="space: operator: ties adds up no adapters"):
        load(search)
