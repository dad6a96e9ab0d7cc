"""What a search will cost, from headers and task data, and from one timed candidate if asked."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import torch

from evomerge.config.compose import LoadedSearch
from evomerge.config.pace import Pace, advice, pace
from evomerge.config.probe import probe as timing
from evomerge.executors import Executor
from evomerge.recipes import Recipe
from evomerge.scoring import Fitness
from evomerge.scoring.tasks import example_counts
from evomerge.search.baselines import baselines
from evomerge.search.front import SHOWN
from evomerge.search.spec import Stage
from evomerge.weights.library import Library
from evomerge.weights.models import Models
from evomerge.weights.plan import Plan, make_plan


def estimate(loaded: LoadedSearch, *, probe: bool = False) -> dict[str, Any]:
    """Sizes, dimension, number of evaluations and memory, as plain data with units in the names.

    Where a search has stages, what differs between them is under ``stages``, by name. A later
    stage is estimated as if earlier stages were won by the recipes that they begin with. Under
    ``notes`` are those of loading, and what had better be changed.

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
    paces = {stage.name: pace(stage, loaded.file.fitness) for stage in search.stages}
    of_stages = {
        stage.name: _of_stage(stage, plans[stage.name], deepest[stage.name], paces[stage.name])
        for stage in search.stages
    }
    compared = len(baselines(search.context, search.paper_defaults))
    largest = max((deepest[name] or plan for name, plan in plans.items()), key=lambda p: p.nbytes)
    timed, slow = timing(loaded, compared, executor, paces) if probe else ({}, [])
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
        **_aims(loaded.file.fitness),
        **_work(loaded, compared, plans),
        **_memory(loaded, largest, executor),
        **timed,
        "notes": [*loaded.notes, *slow, *advice(paces.values())],
    }


def _aims(fitness: Fitness) -> dict[str, Any]:
    """The objectives that it names, and the floors, as ``check`` prints them."""
    facts: dict[str, Any] = {}
    if fitness.objectives is not None:
        goals = {1: "maximize", -1: "minimize"}
        facts["objectives"] = {name: goals[one.sign] for name, one in fitness.objectives.items()}
    if fitness.floor:
        facts["floors"] = dict(fitness.floor)
    return facts


def _work(loaded: LoadedSearch, compared: int, plans: Mapping[str, Plan]) -> dict[str, Any]:
    """How many examples there are to answer, and how many bytes to merge."""
    search, stages = loaded.search, loaded.search.stages
    examples = example_counts(loaded.file.fitness)
    unknown = dict.fromkeys(loaded.file.fitness.scorers, "as its scorer says")
    unseen = compared + len(stages) * search.champions
    if loaded.file.fitness.objectives is not None:
        unseen += SHOWN  # at most
    held_out = sum(examples["held_out"].values()) * unseen
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


def _of_stage(stage: Stage, start: Plan, deepest: Plan | None, pace: Pace | None) -> dict[str, Any]:
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
        "racing": f"off: {stage.not_raced}" if stage.not_raced else "off",
        **({} if pace is None else pace.facts()),
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
