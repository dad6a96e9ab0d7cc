"""Greedy tokens of the best stack: in the live engines, and in its checkpoint without evomerge.

    python experiments/dataflow_zoo/checkpoint.py runs/dataflow_zoo/hybrid-0 checkpoint

Exports the best recipe of a run, builds it, and asks all held-out prompts of a task.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # in this process
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
# Run as a file, Python looks in this folder only.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from evomerge.engines import LanguageModelEngine
from evomerge.plugins import registry
from evomerge.weights.library import Library, read_recipe
from evomerge.weights.plan import make_plan

DATA = Path(__file__).resolve().parents[2] / "fitness" / "zoo_skills" / "data"
NEW_TOKENS = 16
CACHE_BYTES = 1 << 28
Tokens = list[list[int]]


def main() -> None:
    """Print in how many prompts each pair of four ways agrees."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="its folder")
    parser.add_argument("out", type=Path, help="new folder for recipe.yaml and model")
    parser.add_argument("--task", default="cross", help="of the zoo")
    options = parser.parse_args()
    recipe, model = options.out / "recipe.yaml", options.out / "model"
    options.out.mkdir(parents=True)
    _evomerge("export", options.run, "-o", recipe)
    _evomerge("build", recipe, model)
    prompts = _prompts(options.task)
    ways: dict[str, Callable[[], Tokens]] = {
        "live transformers": lambda: _live_transformers(recipe, prompts),
        "plain Transformers": lambda: _plain_transformers(model, prompts),
        "live vllm": lambda: _live_vllm(recipe, prompts),
        "plain vLLM": lambda: _plain_vllm(model, prompts),
    }
    found = {way: ask() for way, ask in ways.items()}
    for one, tokens in found.items():
        for other, others in found.items():
            if list(found).index(one) < list(found).index(other):
                same = sum(a == b for a, b in zip(tokens, others, strict=True))
                print(f"{one}, {other}: the same tokens for {same} of {len(prompts)} prompts")


def _evomerge(*words: object) -> None:
    program = Path(sys.executable).with_name("evomerge")
    subprocess.run([program, *map(str, words)], check=True)


def _prompts(task: str) -> list[str]:
    lines = (DATA / f"{task}.held_out.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def _opened(name: str, recipe_file: Path, **options: Any) -> LanguageModelEngine:
    """An engine that holds the recipe, which was never written."""
    recipe = read_recipe(recipe_file)
    models = Library().models(recipe)
    engine = registry.find("engines", name, LanguageModelEngine)(**options)
    engine.open(models)
    engine.load(make_plan(recipe, models))
    return engine


def _live_transformers(recipe: Path, prompts: Sequence[str]) -> Tokens:
    engine = _opened("transformers", recipe, dtype="float32", threads=1)
    lm: Any = engine.lm
    return _ask_transformers(engine.module, lm.tokenizer, prompts)


def _plain_transformers(model: Path, prompts: Sequence[str]) -> Tokens:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    module = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return _ask_transformers(module.eval(), AutoTokenizer.from_pretrained(model), prompts)


def _ask_transformers(module: Any, tokenizer: Any, prompts: Sequence[str]) -> Tokens:
    """One prompt after the other, so that no padding has a say."""
    found = []
    for prompt in prompts:
        asked = tokenizer(prompt, return_tensors="pt")
        with torch.inference_mode():
            answer = module.generate(
                asked.input_ids,
                attention_mask=asked.attention_mask,
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
            )
        found.append(answer[0, asked.input_ids.shape[1] :].tolist())
    return found


def _live_vllm(recipe: Path, prompts: Sequence[str]) -> Tokens:
    engine = _opened("vllm", recipe, threads=1, vllm={"kv_cache_memory_bytes": CACHE_BYTES})
    lm: Any = engine.lm
    return _ask_vllm(lm.model, prompts)


def _plain_vllm(model: Path, prompts: Sequence[str]) -> Tokens:
    from vllm import LLM

    llm = LLM(
        str(model), dtype="float32", enforce_eager=True, kv_cache_memory_bytes=CACHE_BYTES, seed=0
    )
    return _ask_vllm(llm, prompts)


def _ask_vllm(llm: Any, prompts: Sequence[str]) -> Tokens:
    from vllm import SamplingParams

    greedy = SamplingParams(temperature=0, max_tokens=NEW_TOKENS)
    answers = llm.generate(list(prompts), greedy, use_tqdm=False)
    return [list(answer.outputs[0].token_ids) for answer in answers]


if __name__ == "__main__":
    main()
