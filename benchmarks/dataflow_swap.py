"""Seconds to another path in a live engine, and its speed against a checkpoint of those blocks.

One engine, opened with the deepest stack, meets scaled paths of half and of full depth. Its tokens
must be those of an engine of its own on the checkpoint that is built from the path, or the
comparison is void. All times are CPU seconds on one thread.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from evomerge.engines import LanguageModelEngine
from evomerge.engines._vllm_start import quiet
from evomerge.plugins import registry
from evomerge.recipes import Recipe
from evomerge.weights.build import build
from evomerge.weights.library import Library
from evomerge.weights.plan import Plan, make_plan

ZOO = Path(__file__).resolve().parents[1] / "experiments" / "zoo"
OPTIONS: dict[str, dict[str, Any]] = {
    "transformers": {"threads": 1},
    "vllm": {"threads": 1, "vllm": {"kv_cache_memory_bytes": 1 << 28}},
}
PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 16, 24, 16
PATHS = 4  # of each depth; the first is not timed


class Setting(NamedTuple):
    """Two models and how deep their stacks are."""

    name: str
    sources: dict[str, str]
    blocks: int  # of each model
    repetitions: int
    library: Library

    @property
    def depth(self) -> int:
        """Of the deepest path."""
        return len(self.sources) * self.blocks * self.repetitions

    def plan(self, depth: int, seed: int) -> Plan:
        """A path of blocks drawn from all slots in their order, its scales near 1."""
        rng = np.random.default_rng([depth, seed])
        slots = [(n, b) for _ in range(self.repetitions) for n in self.sources for b in _of(self)]
        inner = np.sort(rng.choice(np.arange(1, len(slots) - 1), depth - 2, replace=False))
        leading = next(iter(self.sources))
        path = [(leading, 0), *(slots[k] for k in inner), (leading, self.blocks - 1)]
        recipe = Recipe.model_validate(
            {
                **{"base": self.sources[leading], "sources": self.sources},
                **{"operator": "passthrough", "dtype": "float32"},
                "slices": [{name: [block, block + 1]} for name, block in path],
                "scales": [1.0, *(1 + 0.1 * rng.standard_normal(depth - 1))],
            }
        )
        return self.library.plan(recipe)


def _of(setting: Setting) -> range:
    return range(setting.blocks)


class Found(NamedTuple):
    """What was measured of one depth."""

    swap_seconds: float
    tokens_per_second: float
    checkpoint_tokens_per_second: float


def main() -> None:
    """Make the models, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=OPTIONS, action="append")
    parser.add_argument("--only", choices=["zoo", "random"])
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="evomerge-benchmark-"))
    print("engine        models                  depth   swap s   tokens/s   of checkpoint   ratio")
    try:
        for name in arguments.engine or OPTIONS:
            for setting in settings(folder, arguments.only):
                for depth, found in measure(name, setting, folder):
                    _print(name, setting, depth, found)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def settings(folder: Path, only: str | None) -> Iterator[Setting]:
    """The zoo, and random models with its tokenizer."""
    if only != "random":
        sources = {name: str(ZOO / name) for name in ("arithmetic", "strings")}
        yield Setting("zoo, 1 M", sources, 4, 2, Library())
    if only != "zoo":
        sources = {name: str(_random_model(folder / name, ord(name))) for name in "ab"}
        yield Setting("random, 62 M", sources, 8, 1, Library())


def measure(name: str, setting: Setting, folder: Path) -> Iterator[tuple[int, Found]]:
    """Half and full depth in one engine that stays open, each checkpoint in one of its own."""
    engine = _engine(name)
    engine.open(setting.plan(setting.depth, 0).models)
    for depth in (setting.depth // 2, setting.depth):
        plans = [setting.plan(depth, seed) for seed in range(PATHS)]
        swaps = [_seconds(partial(engine.load, plan)) for plan in plans]
        speed, tokens = _speed(engine)
        alone, same = _checkpoint(name, plans[-1], folder / "built")
        if tokens != same:
            raise SystemExit(f"void: {name} of {setting.name}, {depth} blocks: other tokens")
        yield depth, Found(statistics.median(swaps[1:]), speed, alone)
    engine.close()


def _checkpoint(name: str, plan: Plan, out: Path) -> tuple[float, list[list[int]]]:
    """Speed and tokens of an engine on the checkpoint that is built from a plan."""
    shutil.rmtree(out, ignore_errors=True)
    itself = {"itself": str(build(plan.recipe, out))}
    recipe = Recipe(base=str(out), sources=dict(itself), operator="linear", dtype="float32")
    engine = _engine(name)
    models = Library().models(recipe)
    engine.open(models)
    engine.load(make_plan(recipe, models))
    found = _speed(engine)
    engine.close()
    return found


def _engine(name: str) -> LanguageModelEngine:
    kind = registry.find("engines", name, LanguageModelEngine)
    return kind(**registry.validate_options(kind, OPTIONS[name], "engine"))


def _speed(engine: LanguageModelEngine) -> tuple[float, list[list[int]]]:
    """New tokens a second, prompts included in the time, and the tokens."""
    tokens = _generate(engine)
    seconds = [_seconds(partial(_generate, engine)) for _ in range(3)]
    return PROMPTS * NEW_TOKENS / min(seconds), tokens


def _generate(engine: LanguageModelEngine) -> list[list[int]]:
    prompts = [[5 + (7 * p + 3 * t) % 400 for t in range(PROMPT_TOKENS)] for p in range(PROMPTS)]
    live: Any = engine.lm
    if hasattr(live.model, "llm_engine"):
        with quiet():
            from vllm import SamplingParams

        live.model.reset_prefix_cache()
        greedy = SamplingParams(max_tokens=NEW_TOKENS, ignore_eos=True, temperature=0)
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        answers = live.model.generate(asked, greedy, use_tqdm=False)
        return [list(answer.outputs[0].token_ids) for answer in answers]
    length = {"min_new_tokens": NEW_TOKENS, "max_new_tokens": NEW_TOKENS}
    tokens = live.model.generate(torch.tensor(prompts), do_sample=False, **length)
    new: list[list[int]] = tokens[:, PROMPT_TOKENS:].tolist()
    return new


def _seconds(action: Callable[[], object]) -> float:
    """Of the processor."""
    started = time.process_time()
    action()
    return time.process_time() - started


def _random_model(folder: Path, seed: int) -> Path:
    """A Llama of 62 M parameters in 8 blocks."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if not folder.exists():
        torch.manual_seed(seed)
        sizes = {"hidden_size": 768, "intermediate_size": 2304, "num_hidden_layers": 8}
        heads = {"num_attention_heads": 12, "num_key_value_heads": 12}
        ids = {"vocab_size": 490, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        config = LlamaConfig(**sizes, **heads, **ids, initializer_range=0.03)
        LlamaForCausalLM(config).save_pretrained(folder)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(ZOO / "base" / file, folder)
    return folder


def _print(engine: str, setting: Setting, depth: int, found: Found) -> None:
    speed, alone = found.tokens_per_second, found.checkpoint_tokens_per_second
    print(
        f"{engine:12}  {setting.name:22}  {depth:5d}   {found.swap_seconds:6.4f}   {speed:8.0f}   "
        f"{alone:13.0f}   {speed / alone:5.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
