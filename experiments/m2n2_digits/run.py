"""Run every method from every seed, and record what each run found.

    python experiments/m2n2_digits/run.py --processes 2

Runs that this version has recorded already are not run again.
"""

from __future__ import annotations

import os

# before NumPy is imported: a process computes on one core
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from loop import search
from methods import METHODS, Method

import evomerge

FIRST_SEED = 42  # of the published runs


def main() -> None:
    """Parse, run, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--evaluations", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("runs/m2n2_digits"))
    parser.add_argument("--only", help="a part of the methods' names", default="")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    chosen = [method for method in METHODS if given.only in method.name]
    jobs = [(m, FIRST_SEED + run) for m in chosen for run in range(m.runs)]
    waiting = [job for job in jobs if not _is_recorded(_path(given.out, *job))]
    with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(found, *job, given.evaluations): job for job in waiting}
        for number, future in enumerate(as_completed(futures), 1):
            method, seed = futures[future]
            record = future.result()
            _path(given.out, method, seed).write_text(json.dumps(record) + "\n", encoding="utf-8")
            last = record["curve"][-1]
            print(
                f"{number}/{len(waiting)} {method.name}, seed {seed}: {100 * last[1]:.1f} % at "
                f"{last[0]}, {record['cpu_ms_per_evaluation']:.2f} ms CPU",
                file=sys.stderr,
            )


def found(method: Method, seed: int, budget: int) -> dict[str, Any]:
    """One run as JSON."""
    run = search(method, seed, budget)
    return {
        "method": method.name,
        "seed": seed,
        "evomerge": evomerge.__version__,
        "curve": [[count, accuracy] for count, accuracy in run.curve.items()],
        "cpu_ms_per_evaluation": 1000 * run.cpu_seconds / run.evaluations,
        "recipe_digest": None if run.recipe is None else run.recipe.digest,
    }


def _is_recorded(path: Path) -> bool:
    """Whether this version has run it: another may find something else."""
    return path.exists() and json.loads(path.read_text()).get("evomerge") == evomerge.__version__


def _path(folder: Path, method: Method, seed: int) -> Path:
    return folder / f"{method.slug}_{seed}.json"


if __name__ == "__main__":
    main()
