"""Seconds from recipe to first score: a live vLLM against merging to disk and starting a new one.

The second is what mergekit-evolve does unless it merges in memory. Here it is given the merge of
evomerge, which is the faster one, and a process that has imported everything already. Both answer
the same examples, on the zoo and on a random model of 0.47 B parameters; the scores must be equal.
Generation is timed on the live engine and taken off both; what is left is the turnaround.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from merge import make_model

from evomerge.build import build
from evomerge.engines._vllm_start import quiet
from evomerge.nouns import Job
from evomerge.recipes import Recipe
from evomerge.scoring import Fitness
from evomerge.worker import Worker, WorkerSetup

ROOT = Path(__file__).resolve().parents[1]
ZOO = ROOT / "experiments" / "zoo"
TASK = "zoo_strings"


class Setting(NamedTuple):
    """What is merged, and how much is asked of it."""

    name: str
    base: Path
    sources: dict[str, Path]
    examples: int

    def recipe(self, weight: float) -> Recipe:
        """The textbook merge."""
        return Recipe(
            base=str(self.base),
            sources={name: str(folder) for name, folder in self.sources.items()},
            operator="task_arithmetic",
            parameters={"weight": weight},
            dtype="bfloat16",
        )

    def fitness(self) -> Fitness:
        """So many examples of one task that generates."""
        keys = {"search_examples": self.examples, "held_out": f"{TASK}_held_out"}
        tasks = {TASK: {"task": TASK, **keys}}
        include_path = str(ROOT / "fitness/zoo_skills")
        return Fitness.model_validate({"include_path": include_path, "tasks": tasks})


class Found(NamedTuple):
    """One way from recipe to score."""

    turnaround_seconds: float
    detail: str


def main() -> None:
    """Make the models, measure both ways on both, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="medians are over this many")
    parser.add_argument("--folder", type=Path, help="keeps the models between runs")
    parser.add_argument("--only", choices=["zoo", "0.47 B"])
    parser.add_argument("--dtype", default="auto", help="of the live model")
    parser.add_argument("--from-disk", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.from_disk:
        print(json.dumps(from_disk(json.loads(arguments.from_disk.read_text()))))
        return
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="evomerge-benchmark-"))
    folder.mkdir(parents=True, exist_ok=True)
    print("model    ours s   of which        from disk s   of which                   ratio")
    try:
        for setting in settings(folder, arguments.only):
            _print(setting, *measure(setting, folder, arguments.runs, arguments.dtype))
    finally:
        if not arguments.folder:
            shutil.rmtree(folder, ignore_errors=True)


def settings(folder: Path, only: str | None) -> Iterator[Setting]:
    """The zoo, and a random model of the zoo's tokenizer."""
    if only != "0.47 B":
        names = ("arithmetic", "strings", "kanji")
        yield Setting("zoo", ZOO / "base", {name: ZOO / name for name in names}, 100)
    if only != "zoo":
        base, *sources = (make_model(folder / f"model-{seed}", seed) for seed in range(3))
        for model in (base, *sources):
            for file in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(ZOO / "base" / file, model)
        yield Setting("0.47 B", base, dict(zip("ab", sources, strict=True)), 4)


def measure(setting: Setting, folder: Path, runs: int, dtype: str) -> tuple[Found, Found]:
    """Both ways, with other weights in every run; the live engine meets each recipe first."""
    fitness = setting.fitness()
    first = setting.recipe(0.1)
    options = {"dtype": dtype}
    with _worker(WorkerSetup(first.base, first.sources, None, fitness, "vllm", options)) as worker:
        worker.evaluate(Job(0, first, "search"))
        weights = [0.2 + 0.1 * number for number in range(runs)]
        live = [worker.evaluate(Job(0, setting.recipe(w), "search")) for w in weights]
        asking = worker.scorers["search"].lm_eval
        assert asking is not None
        (of,) = asking.doc_ids().values()
        engine = dict(worker.engine.lm_eval_arguments(worker.models))
    asked = {"engine": engine, "doc_ids": of[1], "include_path": fitness.include_path}
    disk = [_child(setting.recipe(w), asked, folder) for w in weights]
    for ours, theirs in zip(live, disk, strict=True):
        if ours.status == "failed" or ours.tasks[TASK].score != theirs["score"]:
            raise SystemExit(f"void: {ours.error or ours.tasks[TASK].score} and {theirs['score']}")
    swap = statistics.median(e.merge_seconds for e in live)
    generation = statistics.median(e.score_seconds for e in live)
    merge, start, score = (
        statistics.median(d[key] for d in disk) for key in ("merge", "start", "scoring")
    )
    rest = max(score - generation, 0.0)
    return (
        Found(swap, f"swap {swap:.3f}"),
        Found(merge + start + rest, f"merge {merge:.2f}, start {start:.2f}, rest {rest:.2f}"),
    )


def from_disk(asked: dict[str, Any]) -> dict[str, float]:
    """Merge to disk, start a vLLM on it, score: seconds of each, and the score."""
    with quiet():
        from evomerge.engines import _vllm_repair  # noqa: F401 - the merge below loads Numba
        from evomerge.engines._vllm_lm import import_lm_eval_vllm

        module = import_lm_eval_vllm()
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import handle_arg_string

    manager = TaskManager(include_path=asked["include_path"], include_defaults=False)
    recipe = Recipe.from_canonical_json(asked["recipe"])
    values = {n: handle_arg_string(v) for n, v in asked["engine"]["model_args"].items()}
    marks = [time.perf_counter()]
    with tempfile.TemporaryDirectory(dir=asked["folder"]) as name, quiet():
        model = build(recipe, Path(name) / "model")
        marks.append(time.perf_counter())
        lm = module.VLLM(pretrained=str(model), **values)
        marks.append(time.perf_counter())
        samples = {TASK: asked["doc_ids"]}
        found = evaluator.simple_evaluate(
            lm, tasks=[TASK], task_manager=manager, samples=samples, bootstrap_iters=0
        )
        marks.append(time.perf_counter())
    merge, start, score = (after - before for before, after in pairwise(marks))
    result = found["results"][TASK]["exact_match,none"]
    return {"merge": merge, "start": start, "scoring": score, "score": result}


def _child(recipe: Recipe, asked: dict[str, Any], folder: Path) -> dict[str, float]:
    job = folder / "job.json"
    whole = asked | {"recipe": recipe.canonical_json(), "folder": str(folder)}
    job.write_text(json.dumps(whole))
    command = [sys.executable, __file__, "--from-disk", str(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def _worker(setup: WorkerSetup) -> Iterator[Worker]:
    worker = Worker(setup)
    try:
        yield worker
    finally:
        worker.close()


def _print(setting: Setting, ours: Found, theirs: Found) -> None:
    ratio = theirs.turnaround_seconds / ours.turnaround_seconds
    print(
        f"{setting.name:8} {ours.turnaround_seconds:6.3f}   {ours.detail:14}  "
        f"{theirs.turnaround_seconds:11.2f}   {theirs.detail}   {ratio:5.1f}"
    )


if __name__ == "__main__":
    main()
