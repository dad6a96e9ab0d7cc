"""What a search will cost, from headers and task data, and from one timed candidate if asked."""

from __future__ import annotations

import math
import os
import time
from typing import Any

import torch

from evomerge.baselines import baselines
from evomerge.config import Loaded
from evomerge.errors import CandidateError
from evomerge.nouns import Job
from evomerge.scoring.tasks import example_counts
from evomerge.weights.plan import Plan, make_plan
from evomerge.worker import Worker


def estimate(loaded: Loaded, *, probe: bool = False) -> dict[str, Any]:
    """Sizes, dimension, number of evaluations and memory, as plain data with units in the names.

    Args:
        probe: time one candidate, on a worker in this process.

    Raises:
        CandidateError: the timed candidate cannot be scored.
    """
    search, models = loaded.search, loaded.models
    plan = make_plan(search.space.decode(search.space.initial()), models)
    compared = len(list(baselines(search.ground, search.space.operators)))
    evaluations = search.budget.evaluations
    examples = example_counts(loaded.file.fitness)
    per_candidate = sum(examples["search"].values())
    total = None if evaluations is None else (evaluations + compared + 1) * per_candidate
    held_out = sum(examples["held_out"].values()) * (compared + search.champions)
    return {
        "name": loaded.file.name,
        "parameters": {
            "base": models.base.parameter_count,
            **{name: source.parameter_count for name, source in models.sources.items()},
        },
        "layers": models.layers,
        "merged_bytes": plan.nbytes,
        "operators": list(search.space.operators),
        "genome_dimension": len(search.space.parameters),
        "baselines": compared,
        "budget": {
            k: v
            for k, v in (("evaluations", evaluations), ("seconds", search.budget.seconds))
            if v is not None
        },
        "search_examples": examples["search"],
        "held_out_examples": examples["held_out"],
        "examples_to_answer": "as many as the time allows" if total is None else total + held_out,
        "bytes_to_merge": plan.nbytes * ((evaluations or 0) + compared),
        **_memory(plan),
        **(_probe(loaded, compared) if probe else {}),
    }


def _memory(plan: Plan) -> dict[str, Any]:
    """What the live weights of one worker take on this machine, and whether they fit."""
    gpu = torch.cuda.is_available()
    # on a CPU the live model is float32; caches and activations come on top
    elements = sum(math.prod(step.slot.shape) for step in plan.steps)
    needed = plan.nbytes if gpu else 4 * elements
    if gpu:
        there = torch.cuda.get_device_properties(0).total_memory
    else:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    fits = "yes" if needed < there else f"no: {needed - there} bytes too many"
    return {"weights_bytes_per_worker": needed, "memory_bytes_here": there, "fits_here": fits}


def _probe(loaded: Loaded, compared: int) -> dict[str, Any]:
    """One candidate, timed, and what that makes of the budget."""
    search, executor = loaded.search, loaded.search.new_executor()
    begun = time.perf_counter()
    worker = Worker(search.setup)
    opened = time.perf_counter() - begun
    try:
        recipe = search.space.decode(search.space.initial())
        found = worker.evaluate(Job(0, recipe, "search"))
        gpus = executor.planned_gpus(search.setup) / executor.capacity
    finally:
        worker.close()
    if found.status == "failed":
        raise CandidateError(f"the timed candidate failed: {found.error}")
    seconds = found.merge_seconds + found.score_seconds
    facts: dict[str, Any] = {
        "seconds_to_open_a_worker": round(opened, 3),
        "seconds_per_candidate": round(seconds, 4),
        "gpu_hours_per_candidate": seconds * gpus / 3600,
        "workers": executor.capacity,
    }
    if search.budget.evaluations is not None:
        count = search.budget.evaluations + compared + 1
        facts["seconds_for_the_budget"] = round(seconds * count / executor.capacity, 1)
        facts["gpu_hours_for_the_budget"] = seconds * gpus * count / 3600
    return facts
