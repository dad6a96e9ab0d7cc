"""What a search will cost, from headers and task data, and from one timed candidate if asked."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import torch

from evomerge import registry
from evomerge.baselines import baselines
from evomerge.config import Loaded
from evomerge.engines import Engine
from evomerge.errors import CandidateError, ConfigError
from evomerge.executors import Executor
from evomerge.executors.local import LocalExecutor
from evomerge.nouns import Job
from evomerge.scoring.tasks import example_counts
from evomerge.search import Budget
from evomerge.weights.plan import Plan, make_plan
from evomerge.worker import Worker


def estimate(loaded: Loaded, *, probe: bool = False) -> dict[str, Any]:
    """Sizes, dimension, number of evaluations and memory, as plain data with units in the names.

    Args:
        probe: time one candidate, on a worker in this process.

    Raises:
        CandidateError: the timed candidate cannot be scored.
        ConfigError: a budget of GPU hours, and the timed candidate was on none.
    """
    search, models, executor = loaded.search, loaded.models, loaded.search.new_executor()
    recipe = search.space.decode(search.space.initial())
    plan = make_plan(recipe, models.stacked(recipe))
    compared = len(list(baselines(search.ground, search.space.operators)))
    evaluations = search.budget.evaluations
    examples = example_counts(loaded.file.fitness)
    per_candidate = sum(examples["search"].values())
    total = None if evaluations is None else (evaluations + compared + 1) * per_candidate
    held_out = sum(examples["held_out"].values()) * (compared + search.champions)
    unknown = dict.fromkeys(loaded.file.fitness.scorers, "as its scorer says")
    return {
        "name": loaded.file.name,
        "parameters": {
            "base": models.base.parameter_count,
            **{name: source.parameter_count for name, source in models.sources.items()},
        },
        "layers": models.layers,
        **_stacks(loaded, plan),
        "merged_bytes": plan.nbytes,
        "operators": list(search.space.operators),
        "genome_dimension": len(search.space.parameters),
        "baselines": compared,
        "budget": {
            name: limit for name, limit in asdict(search.budget).items() if limit is not None
        },
        "search_examples": {**examples["search"], **unknown},
        "held_out_examples": {**examples["held_out"], **unknown},
        "examples_to_answer": _in_all(total, held_out, scorers=bool(unknown)),
        "bytes_to_merge": plan.nbytes * ((evaluations or 0) + compared),
        **_memory(loaded, _largest(loaded) or plan, executor),
        **(_probe(loaded, compared, executor) if probe else {}),
    }


def _largest(loaded: Loaded) -> Plan | None:
    """Of the deepest stack of the space, if it stacks blocks."""
    recipe = loaded.search.space.largest()
    return None if recipe is None else make_plan(recipe, loaded.models.stacked(recipe))


def _stacks(loaded: Loaded, start: Plan) -> dict[str, Any]:
    """Blocks and weights of the start and of the largest stack, where blocks are stacked."""
    largest = _largest(loaded)
    if largest is None:
        return {}
    return {
        name: {
            "layers": plan.models.layers,
            "parameters": sum(math.prod(step.slot.shape) for step in plan.steps),
        }
        for name, plan in (("start", start), ("largest_stack", largest))
    }


def _in_all(searched: int | None, held_out: int, *, scorers: bool) -> int | str:
    """Examples of the whole run, or why they are not known."""
    if scorers:
        return "as many as the scorers say"
    return "as many as the time allows" if searched is None else searched + held_out


def _memory(loaded: Loaded, plan: Plan, executor: Executor) -> dict[str, Any]:
    """What the live weights of one worker take, and whether machines like this one hold them.

    Caches and activations come on top.
    """
    gpus, dtype = _placed(loaded, executor)
    needed = sum(math.prod(step.slot.shape) for step in plan.steps) * dtype.itemsize
    facts: dict[str, Any] = {
        "weights_dtype": str(dtype).removeprefix("torch."),
        "weights_bytes_per_worker": needed,
        "gpus_per_worker": gpus,
    }
    if not gpus:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    elif torch.cuda.is_available():
        needed = math.ceil(needed / gpus)  # one worker on several, or several on one
        there = torch.cuda.get_device_properties(0).total_memory
        facts["weights_bytes_per_gpu"] = needed
    else:
        facts["weights_bytes_per_gpu"] = math.ceil(needed / gpus)
        return facts | {"fits_here": "unknown: the workers have GPUs, this machine has none"}
    fits = "yes" if needed < there else f"no: {needed - there} bytes too many"
    return facts | {"memory_bytes_here": there, "fits_here": fits}


def _placed(loaded: Loaded, executor: Executor) -> Place:
    setup = loaded.search.setup
    engine = registry.find("engines", setup.engine, Engine)(**setup.engine_options)
    local = isinstance(executor, LocalExecutor)
    held = None if local else executor.planned_gpus(setup) / executor.capacity
    arguments = engine.lm_eval_arguments(loaded.models)
    return place(arguments, setup.engine_options, loaded.models.dtype, held)


class Place(NamedTuple):
    """Where one engine's weights lie: on how many GPUs, 0 for a CPU, and in which dtype."""

    gpus: float
    dtype: torch.dtype


def place(
    arguments: Mapping[str, Any], options: Mapping[str, Any], base_dtype: str, held: float | None
) -> Place:
    """Where a worker's engine puts its weights.

    Args:
        arguments: what the engine says of this machine: `Engine.lm_eval_arguments`.
        options: what the search says of the engine.
        base_dtype: of the models.
        held: GPUs that a worker holds elsewhere; None for a worker in this process.
    """
    says = arguments.get("model_args", {})
    here = str(arguments.get("device", "cpu")).startswith("cuda")
    parts = int(says.get("tensor_parallel_size", 1)) * int(says.get("pipeline_parallel_size", 1))
    if held is None:
        gpus = float(parts if here else 0)
    elif str(options.get("device", "auto")).startswith("cpu"):
        gpus = 0.0
    else:
        gpus = min(float(parts), held)
    dtype = options.get("dtype", "auto")
    if dtype == "auto":
        # what the engine says of this machine need not hold where the workers are
        there = base_dtype if gpus else "float32"
        dtype = says.get("dtype", there) if here == bool(gpus) else there
    return Place(gpus, getattr(torch, dtype))


def _probe(loaded: Loaded, compared: int, executor: Executor) -> dict[str, Any]:
    """One candidate, timed, and what that makes of the budget."""
    search = loaded.search
    begun = time.perf_counter()
    worker = Worker(search.setup)
    opened = time.perf_counter() - begun
    try:
        recipe = search.space.decode(search.space.representative())
        jobs = [Job(number, recipe, "search") for number in range(worker.at_once)]
        if search.setup.fitness.scorers:
            worker.evaluate_all(jobs)  # scorers may load their data at the first call
        found = worker.evaluate_all(jobs)[0]
        gpus = executor.planned_gpus(search.setup)
    finally:
        worker.close()
    if found.status == "failed":
        raise CandidateError(f"the timed candidate failed: {found.error}")
    seconds = found.merge_seconds + found.score_seconds
    return {
        "seconds_to_open_a_worker": round(opened, 3),
        "seconds_per_candidate": round(seconds, 4),
        "gpu_hours_per_candidate": seconds * gpus / executor.capacity / 3600,
        "workers": executor.capacity,
        **totals(search.budget, compared + 1, seconds, executor.capacity, gpus),
    }


def totals(
    budget: Budget, besides: int, seconds: float, workers: int, gpus: float
) -> dict[str, Any]:
    """How far a budget goes, and what it comes to.

    Args:
        besides: candidates that come on top of those of the budget.
        seconds: that one candidate takes one worker.
        gpus: of all workers.

    Raises:
        ConfigError: GPU hours, where there is no GPU.
    """
    if budget.gpu_hours is not None and not gpus:
        raise ConfigError(
            f"budget.gpu_hours: {budget.gpu_hours:g}, but the workers hold no GPU. "
            "Give executor.gpus_per_worker, or limit seconds or evaluations instead."
        )
    ends = [] if budget.evaluations is None else [budget.evaluations]
    limits = [] if budget.seconds is None else [budget.seconds]
    limits += [] if budget.gpu_hours is None else [budget.gpu_hours * 3600 / gpus]
    ends += [max(0, math.floor(limit * workers / seconds) - besides) for limit in limits]
    spent = seconds * (min(ends) + besides) / workers
    return {
        "candidates_for_the_budget": min(ends),
        "seconds_for_the_budget": round(spent, 1),
        "gpu_hours_for_the_budget": spent * gpus / 3600,
    }
