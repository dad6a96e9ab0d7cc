"""Merge to disk, start a vLLM on it, score: one candidate of a search without a live engine.

A program of its own, which imports nothing where vLLM's processes would import it again.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any


def main(asked: dict[str, Any]) -> dict[str, Any]:
    """Wall and CPU seconds of each, and the score.

    Args:
        asked: recipe, task and doc_ids; ``engine`` is what lm-eval's own vllm model is given;
            ``alone``: whether vLLM has the model in a process of its own, as it does by itself.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = str(int(asked["alone"]))
    from evomerge.engines._vllm_start import quiet, repair_llvmlite

    with quiet():
        repair_llvmlite()  # the merge below loads Numba
        from evomerge.engines._vllm_lm import import_lm_eval_vllm

        module = import_lm_eval_vllm()
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import handle_arg_string

    from evomerge.recipes import Recipe
    from evomerge.weights.build import build

    task = asked["task"]
    manager = TaskManager(include_path=asked["include_path"], include_defaults=False)
    recipe = Recipe.from_canonical_json(asked["recipe"])
    values = {n: handle_arg_string(v) for n, v in asked["engine"]["model_args"].items()}
    marks = [_clock()]
    with tempfile.TemporaryDirectory(dir=asked["folder"]) as name, quiet():
        model = build(recipe, Path(name) / "model")
        marks.append(_clock())
        lm = module.VLLM(pretrained=str(model), **values)
        marks.append(_clock())
        samples = {task: asked["doc_ids"]}
        found = evaluator.simple_evaluate(
            lm, tasks=[task], task_manager=manager, samples=samples, bootstrap_iters=0
        )
        marks.append(_clock())
    spans = [[b - a for a, b in zip(*pair, strict=True)] for pair in pairwise(marks)]
    parts = dict(zip(("merge", "start", "scoring"), spans, strict=True))
    return parts | {"score": found["results"][task]["exact_match,none"]}


def _clock() -> tuple[float, float]:
    """Now; the CPU seconds are those of all processes that run."""
    import psutil  # type: ignore[import-untyped]

    children = psutil.Process().children(recursive=True)
    cpu = sum(sum(child.cpu_times()[:2]) for child in children)
    return time.perf_counter(), time.process_time() + cpu


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
