"""Mutated search, recipe and mergekit YAML: accepted, or refused with a sentence."""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import pytest
import yaml
from mutations import NASTY, TIMES, Mutator

from evomerge.scoring import Fitness, Task
from evomerge.scoring.tasks import task_manager

ROOT = Path(__file__).parents[2]
SMALL = {
    **{"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2},
    "num_key_value_heads": 1,
}
MOST_SECONDS, MOST_BYTES = 5.0, 1 << 30  # of one case: CPU time, and memory on top
CASES = {"search": 800, "recipe": 500, "mergekit": 700}
PARTS = 4  # each a test of its own
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


class Stage(NamedTuple):
    """Where cases are tried.

    Attributes:
        folder: holds the models and files that the texts name.
        layers: keys of a search among single layers.
    """

    folder: Path
    layers: dict[str, Any]


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Path], layers: dict[str, Any]
) -> Stage:
    task_manager(
        Fitness(tasks={"x": Task(task="gsm8k")})
    )  # lm-eval's index of its tasks, read once in a process: seconds
    folder = tmp_path_factory.mktemp("fuzz")
    for seed, name in enumerate(("base", "a", "b", "c", "d")):
        shutil.copytree(tiny(seed, **SMALL), folder / name)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")
    (folder / "scores.py").write_text(
        "def size(module, split):\n    return [float(next(module.parameters()).mean())] * 4\n"
    )
    return Stage(folder, layers)


def searches(stage: Stage) -> list[str]:
    """Searches over every space that is shipped, those of the experiments, and some more."""
    small = {"name": "x", "budget": {"evaluations": 3, "seconds": 60}, "seed": 1, "champions": 2}
    sizes = {name: {"scorer": "scores.py:size"} for name in ("size", "two")}
    models = {
        "base": "base",
        "sources": {"a": "a", "b": "b"},
        "engine": {"name": "transformers", "threads": 1, "batch_size": 4, "max_length": 32},
        "fitness": {"tasks": sizes, "seed": 2},
    }
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


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("kind", CASES)
def test_a_yaml_is_accepted_or_refused_with_a_sentence(
    kind: str, part: int, stage: Stage, cli: Callable[..., Any]
) -> None:
    texts = {"search": lambda: searches(stage), "recipe": recipe_files, "mergekit": mergekit_files}
    mutator = Mutator(texts[kind]())
    wrong: list[str] = []
    codes = {0: 0, 1: 0, 2: 0}
    for number in range(part, CASES[kind] * TIMES, PARTS):
        (stage.folder / "case.yaml").write_bytes(mutator.case(number))
        words = ["check", "case.yaml"] if kind == "search" else ["build", "case.yaml", "out"]
        if kind == "search":
            words += _overrides(number)
        done, problem = _tried(words, stage.folder, cli)
        if done is not None:
            codes[done.returncode] = codes.get(done.returncode, 0) + 1
        if problem:
            wrong.append(f"{kind} {number}: {' '.join(words)}: {problem}")
            (stage.folder.parent / f"{kind}-{number}.yaml").write_bytes(mutator.case(number))
    print(kind, part, codes)
    assert not wrong, f"{len(wrong)} of them:\n" + "\n".join(wrong[:20])
    assert codes[0] and codes[2]


def _overrides(number: int) -> list[str]:
    """Every fifth search is changed from the command line too."""
    rng = random.Random(-number)
    if number % 5:
        return []
    keys: tuple[str, ...] = (
        "seed",
        "budget.evaluations",
        "optimizer.sigma",
        "space.parameters.weight",
        "sources.a",
        "x.y",
    )
    keys += (
        "fitness.tasks.size.options.x",
        "engine.lm_eval.gen_kwargs.x",
        "optimizer",
        "stages.merge.budget",
    )
    value = rng.choice([word for word in NASTY if "\0" not in word])
    return ["--set", f"{rng.choice(keys)}={value}"]


def _tried(words: list[str], folder: Path, cli: Callable[..., Any]) -> tuple[Any, str]:
    """How a command ends, and what is wrong with that; empty where it is as it should be."""
    before, memory = _listing(folder), _most_memory()
    began = time.process_time()
    try:
        with _alarm(120):
            done = cli(*words, cwd=folder)
    except BaseException as error:
        return None, f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        shutil.rmtree(folder / "out", ignore_errors=True)
    seconds, grown = time.process_time() - began, _most_memory() - memory
    said = done.stderr.strip()
    if seconds > MOST_SECONDS or grown > MOST_BYTES:
        return done, f"took {seconds:.1f} s of CPU and {grown} bytes"
    if _listing(folder) != before:
        return done, "wrote something"
    if done.returncode == 0:
        return done, ""
    if not said or "Traceback" in said or len(said) > 20_000:
        return done, f"exit {done.returncode}: {said[:300]!r}"
    if done.returncode != 2 and not _is_no_number(said):
        return done, f"exit {done.returncode}: {said[:300]!r}"
    return done, ""


def _is_no_number(said: str) -> bool:
    """Whether a recipe that is right gives weights that are none: known when they are merged."""
    return "not finite" in said or "cannot hold" in said


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    return sorted(
        (str(path), path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    )


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def _alarm(seconds: int) -> Iterator[None]:
    def hung(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"hung for {seconds} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
