"""Mutated YAML of every kind that people write: accepted, or refused with a sentence."""

from __future__ import annotations

import random
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora import (
    Stage,
    fitnesses,
    make_stage,
    mergekit_files,
    recipe_files,
    searches,
    spaces,
)
from mutations import NASTY, TIMES, Mutator, alarm

ROOT = Path(__file__).parents[2]
MOST_SECONDS, MOST_BYTES = 5.0, 1 << 30  # of one case: CPU time, and memory on top
MOST_OF_FITNESS = 20.0  # a wrong name is looked up in lm-eval's index, read for each include_path
CASES = {"search": 640, "recipe": 400, "mergekit": 560, "space": 240, "fitness": 160}
_OPTIMIZERS = ("random", "cmaes", "m2n2", "map_elites")
PARTS = 4  # each a test of its own


@pytest.fixture(scope="module")
def stage(
    tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Path], layers: dict[str, Any]
) -> Stage:
    return make_stage(tmp_path_factory.mktemp("fuzz"), tiny, layers)


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("kind", CASES)
def test_a_yaml_is_accepted_or_refused_with_a_sentence(
    kind: str, part: int, stage: Stage, cli: Callable[..., Any]
) -> None:
    texts = {
        **{"search": lambda: searches(stage), "space": spaces, "fitness": fitnesses},
        **{"recipe": recipe_files, "mergekit": mergekit_files},
    }
    mutator = Mutator(texts[kind]())
    wrong: list[str] = []
    codes = {0: 0, 1: 0, 2: 0}
    for number in range(part, CASES[kind] * TIMES, PARTS):
        (stage.folder / "case.yaml").write_bytes(mutator.case(number))
        words = _words(kind, number)
        done, problem = _tried(words, stage.folder, cli)
        if done is not None:
            codes[done.returncode] = codes.get(done.returncode, 0) + 1
        if problem:
            wrong.append(f"{kind} {number}: {' '.join(words)}: {problem}")
            (stage.folder.parent / f"{kind}-{number}.yaml").write_bytes(mutator.case(number))
    print(kind, part, codes)
    assert not wrong, f"{len(wrong)} of them:\n" + "\n".join(wrong[:20])
    assert codes[0] and codes[2]


def _words(kind: str, number: int) -> list[str]:
    """The command that reads a case."""
    if kind == "search":
        return ["check", "case.yaml", *_overrides(number)]
    if kind == "space":
        optimizer = _OPTIMIZERS[number // PARTS % len(_OPTIMIZERS)]
        models = "of_stack.yaml" if number // PARTS % 3 == 0 else "of_space.yaml"
        return ["check", models, "--set", f"optimizer={optimizer}"]
    return ["check", "of_fitness.yaml"] if kind == "fitness" else ["build", "case.yaml", "out"]


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
        with alarm(120):
            done = cli(*words, cwd=folder)
    except BaseException as error:
        return None, f"{type(error).__name__}: {str(error)[:300]}"
    finally:
        shutil.rmtree(folder / "out", ignore_errors=True)
    seconds, grown = time.process_time() - began, _most_memory() - memory
    said = done.stderr.strip()
    if (
        seconds > (MOST_OF_FITNESS if "of_fitness.yaml" in words else MOST_SECONDS)
        or grown > MOST_BYTES
    ):
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
