"""Seconds from recipe to first score: a live vLLM against merging to disk and starting a new one.

The second is what mergekit-evolve does unless it merges in memory. Two ways of it are measured:

- as it is: mergekit 0.1.5, in an environment of its own, merges in a process that has imported all;
  vLLM starts as it does by itself, with the model in a process of its own;
- at its best: evomerge merges, vLLM starts within a process that has imported all.

All are eager and answer the same examples, on the zoo and on a random model of 0.47 B parameters;
the scores must be equal. Generation is timed on the live engine and taken off all; what is left is
the turnaround. CPU seconds tell what a machine that other programs use would take alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from _mergekit import Mergekit
from merge import make_model

from evomerge.engines import LanguageModelEngine
from evomerge.recipes import Recipe
from evomerge.scoring import Fitness
from evomerge.types import Job
from evomerge.weights.plan import Plan
from evomerge.worker import Worker, WorkerSetup

ROOT = Path(__file__).resolve().parents[1]
ZOO = ROOT / "experiments" / "zoo"
TASK = "zoo_strings"
FROM_DISK = Path(__file__).with_name("_from_disk.py")


class Setting(NamedTuple):
    """What is merged, and how much is asked of it."""

    name: str
    base: Path
    sources: dict[str, Path]
    examples: int

    def recipe(self, weight: float) -> Recipe:
        """The merge with the paper's defaults."""
        return Recipe(
            base=str(self.base),
            sources={name: str(folder) for name, folder in self.sources.items()},
            operator="task_arithmetic",
            parameters={"weight": weight},
            dtype="bfloat16",
        )

    def mergekit(self, weight: float) -> dict[str, Any]:
        """The same as mergekit writes it."""
        parameters = {"weight": weight}
        models = [{"model": str(m), "parameters": parameters} for m in self.sources.values()]
        content = {"merge_method": "task_arithmetic", "models": models, "dtype": "bfloat16"}
        return content | {"base_model": str(self.base)}

    def fitness(self) -> Fitness:
        """So many examples of one task that generates."""
        keys = {"search_examples": self.examples, "held_out": f"{TASK}_held_out"}
        tasks = {TASK: {"task": TASK, **keys}}
        include_path = str(ROOT / "fitness/zoo_skills")
        return Fitness.model_validate({"include_path": include_path, "tasks": tasks})


class Seconds(NamedTuple):
    """What something took."""

    wall: float
    cpu: float

    def less(self, other: Seconds) -> Seconds:
        """What is left of it, at least nothing."""
        return Seconds(*(max(a - b, 0.0) for a, b in zip(self, other, strict=True)))


PARTS = ("mergekit", "own start", "own rest", "merge", "start", "rest")  # of the way over the disk
AS_IT_IS, AT_ITS_BEST = PARTS[:3], PARTS[3:]
Found = dict[str, Seconds]


def main() -> None:
    """Make the models, measure both ways on both, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="medians are over this many")
    parser.add_argument("--folder", type=Path, help="keeps models and environment between runs")
    parser.add_argument("--only", choices=["zoo", "0.47 B"])
    parser.add_argument("--dtypes", nargs="*", default=["float32", "bfloat16"], help="of the model")
    parser.add_argument("--threads", type=int, help="of each process; torch's number by default")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="evomerge-benchmark-"))
    folder.mkdir(parents=True, exist_ok=True)
    threads = {"OMP_NUM_THREADS": str(arguments.threads)} if arguments.threads else {}
    peer = Mergekit(folder / "mergekit", os.environ | threads)
    print("wall seconds, CPU seconds in brackets; ratios as it is and at its best")
    print(f"| model | dtype | live | {' | '.join(PARTS)} | ratios | of CPU | load |")
    print(f"|{'---|' * (len(PARTS) + 6)}", flush=True)
    try:
        for setting in settings(folder, arguments.only):
            for dtype in arguments.dtypes:
                options = {"dtype": dtype, "threads": arguments.threads}
                _print(setting, dtype, measure(setting, folder, arguments.runs, options, peer))
    finally:
        peer.close()
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


def measure(
    setting: Setting, folder: Path, runs: int, options: dict[str, Any], peer: Mergekit
) -> Found:
    """Both ways, with other weights in every run; the live engine meets each recipe first."""
    fitness = setting.fitness()
    first = setting.recipe(0.1)
    weights = [0.2 + 0.1 * number for number in range(runs)]
    setup = WorkerSetup(
        composition=first,
        fitness=fitness,
        engine="vllm",
        engine_options=options,
    )
    with _worker(setup) as worker:
        _timed(worker, first)
        live = [_timed(worker, setting.recipe(w)) for w in weights]
        asking = worker.scorers["search"].lm_eval
        assert asking is not None
        (of,) = asking.doc_ids().values()
        assert isinstance(worker.engine, LanguageModelEngine)
        engine = dict(worker.engine.lm_eval_arguments(worker.models))
    asked = {"engine": engine, "doc_ids": of[1], "include_path": fitness.include_path}
    asked["task"] = TASK
    disk: list[dict[str, Any]] = []
    stock: list[dict[str, Any]] = []
    for weight in weights:
        for found, alone in ((disk, False), (stock, True)):
            whole = asked | {"alone": alone}
            found.append(_child(setting.recipe(weight), whole, folder, options["threads"]))
    for (_, _, ours), *theirs in zip(live, disk, stock, strict=True):
        if any(found["score"] != ours for found in theirs):
            raise SystemExit(f"void: {ours} and {[found['score'] for found in theirs]}")
    out = folder / "merged"
    merges = []
    for weight in (0.1, *weights):  # the first is not counted: it imports still
        merges.append(Seconds(*peer.merge(setting.mergekit(weight), out)))
        shutil.rmtree(out)
    generation = _median(generation for _, generation, _ in live)
    parts = {
        "live": _median(swap for swap, _, _ in live),
        "mergekit": _median(merges[1:]),
        "merge": _median(Seconds(*d["merge"]) for d in disk),
    }
    for name, found in (("", disk), ("own ", stock)):
        parts[f"{name}start"] = _median(Seconds(*d["start"]) for d in found)
        scoring = _median(Seconds(*d["scoring"]) for d in found)
        parts[f"{name}rest"] = scoring.less(generation)
    return parts


def _timed(worker: Worker, recipe: Recipe) -> tuple[Seconds, Seconds, float]:
    """What the live engine took to merge, what to score, and the score."""
    load, taken = worker.engine.load, []

    def timed(plan: Plan) -> None:
        started = time.process_time()
        load(plan)
        taken.append(time.process_time() - started)

    worker.engine.load = timed  # type: ignore[method-assign]
    started = time.process_time()
    found = worker.evaluate(Job(0, recipe, "search"))
    cpu = time.process_time() - started
    worker.engine.load = load  # type: ignore[method-assign]
    if found.status == "failed":
        raise SystemExit(f"void: {found.error}")
    swap = Seconds(found.merge_seconds, taken[0])
    return swap, Seconds(found.score_seconds, cpu - taken[0]), found.tasks[TASK].score


def _median(many: Iterable[Seconds]) -> Seconds:
    return Seconds(*(statistics.median(column) for column in zip(*many, strict=True)))


def _child(
    recipe: Recipe, asked: dict[str, Any], folder: Path, threads: int | None
) -> dict[str, Any]:
    job = folder / "job.json"
    whole = asked | {"recipe": recipe.canonical_json(), "folder": str(folder)}
    job.write_text(json.dumps(whole))
    command = [sys.executable, str(FROM_DISK), str(job)]
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    done = subprocess.run(  # noqa: S603
        command, stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def _worker(setup: WorkerSetup) -> Iterator[Worker]:
    worker = Worker(setup)
    try:
        yield worker
    finally:
        worker.close()


def _print(setting: Setting, dtype: str, found: Found) -> None:
    ratios = []
    for parts in (AS_IT_IS, AT_ITS_BEST):
        total = [sum(column) for column in zip(*(found[part] for part in parts), strict=True)]
        ratios.append([t / own for t, own in zip(total, found["live"], strict=True)])
    cells = [f"{s.wall:.3g} ({s.cpu:.3g})" for s in (found["live"], *(found[p] for p in PARTS))]
    cells += [", ".join(f"{ratio[kind]:.1f}" for ratio in ratios) for kind in (0, 1)]
    cells.append(f"{os.getloadavg()[2]:.0f}")
    print(f"| {setting.name} | {dtype} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
