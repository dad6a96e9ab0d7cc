"""Valid YAML to mutate: searches, recipes and mergekit files over tiny models."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from evomerge.scoring import Fitness, Task
from evomerge.scoring.tasks import task_manager

SMALL = {
    **{"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2},
    "num_key_value_heads": 1,
}
ROOT = Path(__file__).parents[2]
RECIPES = """
base: base
sources: {a: a, b: b}
operator: ties
parameters: {density: 0.5, weight: {a: 1.0, b: {mlp: [0.1, 0.2, 0.3], other: 0.5}}, normalize: true}
seed: 3
dtype: float32
---
base: base
sources: {a: a, b: b}
operator: linear
parameters: {weight: [{filter: mlp, value: 0.3}, {value: 0.7}]}
slices: [{a: [0, 2], b: [1, 3]}, {a: [1, 2]}, {base: [2, 3], b: [0, 1]}]
scales: [1.0, 0.9, 1.1, -1.0]
dtype: bfloat16
tokenizer: {source: union, tokens: {"<x>": {source: a, token: w1, force: true}, w2: {zero: true}}}
chat_template: chatml
---
base: {base: base, sources: {a: a}, operator: task_arithmetic, dtype: float32}
sources:
  m: {base: base, sources: {a: a, b: b}, operator: slerp, parameters: {t: 0.3}, dtype: float32}
  b: b
operator: dare_linear
parameters: {density: 0.5, weight: {m: 0.2, b: 0.3}}
modules: [model.layers.0, model.layers.1.mlp]
dtype: float16
tokenizer: base
---
base: base
sources: {a: a, b: b}
operator: segments
segments:
  chromosomes: [[attention], [rest]]
  bounds: [0, 10, 2424]
  rows: [[0.5, 0.5], [0.1, 0.9]]
dtype: float32
---
base: base
sources: {a: a, b: b}
operator: segments
lineage:
  steps:
  - {number: 4, parents: [a, b], ends: [5, 2424], weights: [[0.5, 0.5], [0, 1]], sigma: 0.01}
  - {number: 7, parents: [4], ends: [2424], weights: [[1.0]]}
dtype: float32
"""
_SHORT: dict[str, Any] = {
    **{"name": "x", "budget": {"evaluations": 3, "seconds": 60}},
    **{"seed": 1, "champions": 2},
}
_SIZES = {name: {"scorer": "scores.py:size"} for name in ("size", "two")}
_MODELS: dict[str, Any] = {
    "base": "base",
    "sources": {"a": "a", "b": "b"},
    "engine": {"name": "transformers", "threads": 1, "batch_size": 4, "max_length": 32},
    "fitness": {"tasks": _SIZES, "seed": 2},
}


class Stage(NamedTuple):
    """Where cases are tried.

    Attributes:
        folder: holds the models and files that the texts name.
        layers: keys of a search among single layers.
    """

    folder: Path
    layers: dict[str, Any]


def make_stage(folder: Path, tiny: Callable[..., Path], layers: dict[str, Any]) -> Stage:
    """Models and odd files in an empty folder."""
    task_manager(
        Fitness(tasks={"x": Task(task="gsm8k")})
    )  # lm-eval's index of its tasks, read once in a process: seconds
    for seed, name in enumerate(("base", "a", "b", "c", "d")):
        shutil.copytree(tiny(seed, **SMALL), folder / name)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")
    (folder / "scores.py").write_text(
        "def size(module, split):\n    return [float(next(module.parameters()).mean())] * 4\n"
    )
    # searches whose space, or fitness, is the case
    of_case: dict[str, dict[str, Any]] = {
        "stack": {**_MODELS, "space": "case.yaml"},
        "space": {**layers, "space": "case.yaml"},
        "fitness": {**_MODELS, "space": "linear", "fitness": "case.yaml"},
    }
    for name, keys in of_case.items():
        text = yaml.safe_dump({**_SHORT, **keys, "optimizer": "random"}, sort_keys=False)
        (folder / f"of_{name}.yaml").write_text(text)
    return Stage(folder, layers)


def searches(stage: Stage) -> list[str]:
    """Searches over every space that is shipped, those of the experiments, and some more."""
    small, sizes, models = _SHORT, _SIZES, _MODELS
    layers = stage.layers | {"sources": {name: stage.layers["sources"][name] for name in "ab"}}
    found: list[dict[str, Any]] = []
    for path in sorted((ROOT / "search_spaces").glob("*.yaml")):
        space = yaml.safe_load(path.read_text())
        stacks = space["kind"] in ("dataflow", "joint") or path.stem == "operators"
        optimizer: Any = {"name": "cmaes", "population_size": 4, "sigma": 0.2}
        if space["kind"] == "crossover":
            optimizer = {"name": "m2n2", "population_size": 4, "mutation": 0.01}
        keys = models if stacks else layers
        found.append({**small, **keys, "space": space, "optimizer": optimizer})
        if path.stem == "layer_pruning":
            found[-1] |= {"fitness": {"tasks": sizes, "shorten": {"within": 0.05}}}
    names = {"arithmetic": "a", "strings": "b", "kanji": "b"}
    for path in sorted((ROOT / "experiments").glob("*/*.yaml")):
        text = re.sub(rf"\b({'|'.join(names)})\b", lambda word: names[word[0]], path.read_text())
        keys = yaml.safe_load(text)
        if "sources" in keys:
            found.append({**keys, **models, "budget": {"evaluations": 3}})
            if "stages" in keys:
                del found[-1]["budget"]
    stages: list[dict[str, Any]] = [
        {"name": "merge", "space": "linear", "budget": {"evaluations": 2}, "optimizer": "random"},
        {"name": "again", "sources": ["stage:merge"], "space": "ties", "budget": {"seconds": 5}},
    ]
    local = {"name": "local", "lookahead": 2}
    found.append({"name": "x", **models, "stages": stages, "executor": local})
    optuna = {"name": "optuna", "sampler": "TPESampler", "sampler_options": {"n_ei_candidates": 2}}
    found.append({**small, **layers, "space": "ties", "optimizer": optuna, "statistics": {}})
    lm_eval = {"gen_kwargs": {"temperature": 0.5, "until": ["x"]}, "num_fewshot": 1}
    asked = {"name": "transformers", "lm_eval": lm_eval}
    found.append({**small, **models, "space": "slerp", "engine": asked, "sources": {"a": "a"}})
    return [yaml.safe_dump(keys, sort_keys=False) for keys in found]


def spaces() -> list[str]:
    """Every space that is shipped, as a file of its own."""
    return [path.read_text() for path in sorted((ROOT / "search_spaces").glob("*.yaml"))]


def fitnesses() -> list[str]:
    """Every fitness that is shipped, and some more, as files of their own."""
    zoo = yaml.safe_load((ROOT / "fitness" / "zoo_skills.yaml").read_text())
    few = {"search_examples": 4, "weight": 2, "metric": "exact_match", "num_fewshot": 1}
    asked = {"maths": {"task": "gsm8k", "filter": "flexible-extract", **few}}
    options = {"size": {**_SIZES["size"], "options": {"x": [1, {"y": 0.5}]}, "weight": 0.5}}
    found = [
        {**zoo, "include_path": str(ROOT / "fitness" / zoo["include_path"])},
        {"tasks": asked, "seed": 3},
        {"tasks": {**asked, **options}, "normalize": "best_source"},
        {"tasks": _SIZES, "shorten": {"within": 0.05}},
    ]
    return [yaml.safe_dump(keys, sort_keys=False) for keys in found]


def mergekit_files() -> list[str]:
    """mergekit's own examples, with the tiny models in place of theirs and ranges as short."""

    def small(value: Any, names: dict[Any, str], key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: small(v, names, k) for k, v in value.items()}
        if key == "layer_range":
            start, end = value
            return [start // 16, max(start // 16 + 1, min(3, end // 16))]
        if isinstance(value, list):
            return [small(item, names) for item in value]
        if key in ("model", "base_model", "source", "tokenizer_source"):
            return names.setdefault(value, "abcd"[len(names) % 4])
        return value

    texts = []
    for path in sorted((ROOT / "tests/recipes/mergekit/examples").glob("*.yaml")):
        documents = list(yaml.safe_load_all(path.read_text()))
        names = {documents[0].get("base_model"): "base", "union": "union", "base": "base"}
        small_ones = [small(document, names) for document in documents]
        texts.append(yaml.safe_dump_all(small_ones, sort_keys=False))
    return texts


def recipe_files() -> list[str]:
    return [
        yaml.safe_dump({"evomerge": 1, **one}, sort_keys=False)
        for one in yaml.safe_load_all(RECIPES)
    ]
