"""What a search will cost, from headers and task data, and from one timed candidate if asked."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from typing import Any

import torch

from evomerge.config.compose import LoadedSearch
from evomerge.errors import CandidateError
from evomerge.executors import Executor
from evomerge.recipes import Recipe
from evomerge.scoring import Fitness, shares
from evomerge.scoring.tasks import example_counts
from evomerge.search.baselines import baselines
from evomerge.search.budget import Budget
from evomerge.search.racing.deck import rung_sizes
from evomerge.search.spec import Stage
from evomerge.types import Job
from evomerge.weights.library import Library
from evomerge.weights.models import Models
from evomerge.weights.plan import Plan, make_plan
from evomerge.worker import Worker

_UNKNOWN = 10**9  # examples of a task, more than anybody asks
_ENOUGH_COHORTS = 8  # below, the optimizer has hardly left its start


def estimate(loaded: LoadedSearch, *, probe: bool = False) -> dict[str, Any]:
    """Sizes, dimension, number of evaluations and memory, as plain data with units in the names.

    Where a search has stages, what differs between them is under ``stages``, by name. A later
    stage is estimated as if earlier stages were won by the recipes that they begin with.

    Args:
        probe: time one candidate of each stage, on a worker in this process.

    Raises:
        CandidateError: the timed candidate cannot be scored.
        ConfigError: a budget of GPU hours, but no GPU for the workers.
    """
    search, models, executor = loaded.search, loaded.models, loaded.search.new_executor()
    search.require_gpus(executor)
    plans = {
        stage.name: _plan(stage, stage.space.decode(stage.space.initial()), models)
        for stage in search.stages
    }
    deepest = {stage.name: _deepest(stage, models) for stage in search.stages}
    of_stages = {
        stage.name: _of_stage(stage, plans[stage.name], deepest[stage.name])
        | _race(stage, loaded.file.fitness)
        for stage in search.stages
    }
    compared = len(baselines(search.context, search.paper_defaults))
    largest = max((deepest[name] or plan for name, plan in plans.items()), key=lambda p: p.nbytes)
    return {
        "name": loaded.file.name,
        "parameters": {
            "base": models.base.parameter_count,
            **{name: source.parameter_count for name, source in models.sources.items()},
        },
        "layers": models.base.layers,
        "merged_bytes": max(plan.nbytes for plan in plans.values()),
        **({"stages": of_stages} if loaded.file.stages else of_stages[""]),
        "baselines": compared,
        **_work(loaded, compared, plans),
        **_memory(loaded, largest, executor),
        **(_probe(loaded, compared, executor) if probe else {}),
    }


def _work(loaded: LoadedSearch, compared: int, plans: Mapping[str, Plan]) -> dict[str, Any]:
    """How many examples there are to answer, and how many bytes to merge."""
    search, stages = loaded.search, loaded.search.stages
    examples = example_counts(loaded.file.fitness)
    unknown = dict.fromkeys(loaded.file.fitness.scorers, "as its scorer says")
    held_out = sum(examples["held_out"].values()) * (compared + len(stages) * search.champions)
    answered: int | str = "as many as the budget allows"
    if search.evaluations is not None and not any(stage.racing for stage in stages):
        searched = search.evaluations + compared + len(stages)
        answered = searched * sum(examples["search"].values()) + held_out
    merged = ((stage.budget.evaluations or 0) * plans[stage.name].nbytes for stage in stages)
    return {
        "search_examples": {**examples["search"], **unknown},
        "held_out_examples": {**examples["held_out"], **unknown},
        "examples_to_answer": "as many as the scorers say" if unknown else answered,
        "bytes_to_merge": compared * plans[stages[0].name].nbytes + sum(merged),
    }


def _plan(stage: Stage, recipe: Recipe, models: Models) -> Plan:
    return Library().plan(recipe) if stage.needs else make_plan(recipe, models)


def _deepest(stage: Stage, models: Models) -> Plan | None:
    recipe = stage.space.largest()
    return None if recipe is None else _plan(stage, recipe, models)


def _of_stage(stage: Stage, start: Plan, deepest: Plan | None) -> dict[str, Any]:
    """What differs between stages; where blocks are stacked, also the first and largest stack."""
    stacks = {} if deepest is None else {"start": start, "largest_stack": deepest}
    sizes = {
        name: {
            "layers": plan.models.layers,
            "parameters": sum(math.prod(step.slot.shape) for step in plan.steps),
        }
        for name, plan in stacks.items()
    }
    return {
        **sizes,
        "operators": list(stage.space.operators),
        "genome_dimension": len(stage.space.parameters),
        "budget": stage.budget.model_dump(exclude_none=True),
    }


def _race(stage: Stage, fitness: Fitness) -> dict[str, Any]:
    """What racing asks, and how often the optimizer learns; or why a stage does not race."""
    if stage.racing is None:
        return {"racing": f"off: {stage.not_raced}" if stage.not_raced else "off"}
    size = stage.new_optimizer(stage.space.parameters).cohort_size
    assert size is not None
    known = example_counts(fitness)["search"]
    there = {task: known.get(task, _UNKNOWN) for task in fitness.tasks}
    rungs = rung_sizes(stage.racing, shares(fitness, {}), there)
    cohort, budget = stage.racing.of_cohort(size, rungs), stage.budget
    limits = [] if budget.evaluations is None else [budget.evaluations // size]
    if budget.examples is not None:
        estimate = 0 if fitness.scorers else sum(there.values())
        limits.append(max(0, budget.examples - estimate) // cohort)
    cohorts: int | str = min(limits, default="as many as the time allows")
    few = isinstance(cohorts, int) and cohorts < _ENOUGH_COHORTS
    return {
        "racing": {
            "candidates_a_cohort": size,
            "examples_a_cohort": cohort,
            "examples_a_candidate": round(cohort / size),
            "cohorts_for_the_budget": f"{cohorts}: too few to learn from" if few else cohorts,
        }
    }


def _memory(loaded: LoadedSearch, plan: Plan, executor: Executor) -> dict[str, Any]:
    """Bytes of the live weights of one worker, and whether a machine like this one holds them.

    Caches and activations come on top. On a CPU all workers of this machine share its memory; on
    GPUs each has its own, or its share of one.
    """
    engine, held = loaded.search.setup.new_engine(), executor.gpus_per_worker
    gpus = engine.gpus(held)
    dtype: torch.dtype = getattr(torch, engine.weights_dtype(loaded.models.dtype, held))
    needed = sum(math.prod(step.slot.shape) for step in plan.steps) * dtype.itemsize
    facts: dict[str, Any] = {
        "weights_dtype": str(dtype).removeprefix("torch."),
        "weights_bytes_per_worker": needed,
        "gpus_per_worker": gpus,
    }
    if not gpus:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        needed *= executor.workers_here
    elif torch.cuda.is_available():
        needed = math.ceil(needed / gpus)  # one worker on several, or several on one
        there = torch.cuda.get_device_properties(0).total_memory
        facts["weights_bytes_per_gpu"] = needed
    else:
        facts["weights_bytes_per_gpu"] = math.ceil(needed / gpus)
        return facts | {"fits_here": "unknown: the workers have GPUs, this machine has none"}
    fits = "yes" if needed < there else f"no: {needed - there} bytes too many"
    return facts | {"memory_bytes_here": there, "fits_here": fits}


def _probe(loaded: LoadedSearch, compared: int, executor: Executor) -> dict[str, Any]:
    """Time one candidate of each stage: seconds, and how far the budgets go at that pace."""
    search, workers = loaded.search, executor.capacity
    begun = time.perf_counter()
    worker = Worker(search.setup)
    opened = time.perf_counter() - begun
    try:
        seconds = {stage.name: _timed(worker, stage) for stage in search.stages}
        gpus = executor.planned_gpus(search.setup)
    finally:
        worker.close()
    timed = {}
    for stage in search.stages:
        one = seconds[stage.name]
        besides = 1 + (compared if stage is search.stages[0] else 0)
        timed[stage.name] = {
            "seconds_per_candidate": round(one, 4),
            "gpu_hours_per_candidate": one * gpus / workers / 3600,
            **totals(stage.budget, besides, one, workers, gpus, _examples(stage, loaded)),
        }
    elsewhere = gpus and not torch.cuda.is_available()
    return {
        **({"timed_on": "a CPU, while the workers have GPUs"} if elsewhere else {}),
        "seconds_to_open_a_worker": round(opened, 3),
        "workers": workers,
        **({"timed_stages": timed} if loaded.file.stages else timed[""]),
    }


def _examples(stage: Stage, loaded: LoadedSearch) -> float | None:
    """How many examples a candidate of a stage is asked on average; None if only scorers know."""
    fitness = loaded.file.fitness
    if stage.racing is not None:
        asked: float = _race(stage, fitness)["racing"]["examples_a_candidate"]
        return asked
    return None if fitness.scorers else sum(example_counts(fitness)["search"].values())


def _timed(worker: Worker, stage: Stage) -> float:
    """Seconds that one worker takes for a candidate of typical size."""
    recipe = stage.space.decode(stage.space.representative())
    jobs = [Job(number, recipe, "search") for number in range(worker.engine.at_once)]
    if worker.setup.fitness.scorers:
        worker.evaluate_all(jobs)  # scorers may load their data at the first call
    evaluation = worker.evaluate_all(jobs)[0]
    if evaluation.status == "failed":
        of = f" of stage {stage.name}" if stage.name else ""
        raise CandidateError(f"the timed candidate{of} failed: {evaluation.error}")
    return evaluation.merge_seconds + evaluation.score_seconds


def totals(
    budget: Budget,
    besides: int,
    seconds: float,
    workers: int,
    gpus: float,
    examples: float | None = None,
) -> dict[str, Any]:
    """Candidates, seconds and GPU hours after which a budget is spent.

    Args:
        besides: candidates that are evaluated on top of those of the budget.
        seconds: that one worker takes for one candidate.
        gpus: of all workers together.
        examples: that a candidate is asked on average; None where only its scorers know.

    Returns:
        Nothing where a budget of examples or tokens cannot be counted in candidates.

    Raises:
        ConfigError: the budget is in GPU hours, and there is no GPU.
    """
    budget.require_gpus(gpus)
    ends = [] if budget.evaluations is None else [budget.evaluations]
    ends += [int(budget.examples / examples)] if budget.examples and examples else []
    limits = [] if budget.seconds is None else [budget.seconds]
    limits += [] if budget.gpu_hours is None else [budget.gpu_hours * 3600 / gpus]
    ends += [max(0, math.floor(limit * workers / seconds) - besides) for limit in limits]
    if not ends:
        return {}
    spent = seconds * (min(ends) + besides) / workers
    return {
        "candidates_for_the_budget": min(ends),
        "seconds_for_the_budget": round(spent, 1),
        "gpu_hours_for_the_budget": spent * gpus / 3600,
    }
