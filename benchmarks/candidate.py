"""Seconds from recipe to score: a live engine against a checkpoint on disk and a fresh lm-eval.

Both score the same 200 generated examples of the zoo with the same recipe; the scores must be
equal, or the comparison is void.
"""

from __future__ import annotations

import io
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

from evomerge.config.load import load
from evomerge.recipes import Recipe
from evomerge.types import Job
from evomerge.weights.build import build
from evomerge.worker import Worker

ROOT = Path(__file__).resolve().parents[1]
TASKS = ["zoo_arithmetic", "zoo_strings"]
REPEATS = 5


def from_disk(recipe: Recipe, include_path: str) -> dict[str, float]:
    """What tools without a live engine do: write, load, build the tasks, score."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):
        model = build(recipe, Path(folder) / "model")
        found = simple_evaluate(
            model="hf",
            model_args={"pretrained": str(model), "dtype": "float32"},
            tasks=TASKS,
            task_manager=TaskManager(include_path=include_path, include_defaults=False),
            batch_size=128,
            device="cpu",
            bootstrap_iters=0,
            log_samples=False,
        )
    return {task: found["results"][task]["exact_match,none"] for task in TASKS}


def median_seconds(action: Callable[[], object]) -> float:
    """Of `REPEATS` runs."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    """Print both and their ratio."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    fitness = json.dumps({"include_path": str(ROOT / "fitness/zoo_skills"), "tasks": TASKS})
    loaded = load(ROOT / "experiments/quickstart/search.yaml", [f"fitness={fitness}"])
    space = loaded.search.stages[0].space
    recipe = space.decode(space.initial())
    worker = Worker(loaded.search.setup)
    job = Job(0, recipe, "search")
    live = worker.evaluate(job)
    include_path = str(loaded.file.fitness.include_path)
    disk = from_disk(recipe, include_path)
    same = {name: scores.score for name, scores in live.tasks.items()} == disk
    live_seconds = median_seconds(lambda: worker.evaluate(job))
    last = worker.evaluate(job)
    disk_seconds = median_seconds(lambda: from_disk(recipe, include_path))
    print(f"same scores                         {'yes' if same else 'NO'}")
    print(f"live engine, 200 examples           {live_seconds:.3f} s")
    print(f"  of which merge                    {last.merge_seconds:.3f} s")
    print(f"checkpoint on disk, fresh lm-eval   {disk_seconds:.3f} s")
    print(f"ratio                               {disk_seconds / live_seconds:.1f}")
    if not same:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
