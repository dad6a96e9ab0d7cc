"""What one timed candidate tells of the time that a search takes."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from evomerge.config.compose import LoadedSearch
from evomerge.config.pace import Pace
from evomerge.errors import CandidateError
from evomerge.executors import Executor
from evomerge.search.budget import Budget
from evomerge.search.spec import Stage
from evomerge.types import Job
from evomerge.worker import Worker


class Timed(NamedTuple):
    """Seconds that one worker takes to merge a candidate, and to ask it everything.

    Attributes:
        examples: how many that are.
    """

    merge: float
    asking: float
    examples: int

    @property
    def of_example(self) -> float:
        """Seconds for one example, among many that are asked together."""
        return self.asking / max(1, self.examples)

    def of_candidate(self, pace: Pace | None) -> float:
        """Seconds for a candidate of the search, on average."""
        asked = None if pace is None else pace.cost(pace.size)
        if pace is None or asked is None:
            return self.merge + self.asking
        return pace.merges() * self.merge + asked / pace.size * self.of_example


def probe(
    loaded: LoadedSearch, compared: int, executor: Executor, paces: Mapping[str, Pace | None]
) -> tuple[dict[str, Any], list[str]]:
    """Time one candidate of each stage: seconds, how far budgets go at that pace, and advice.

    Args:
        compared: how many baselines there are.
        paces: by stage.
    """
    search, workers = loaded.search, executor.capacity
    begun = time.perf_counter()
    worker = Worker(search.setup)
    opened = time.perf_counter() - begun
    try:
        seconds = {stage.name: _timed(worker, stage) for stage in search.stages}
        gpus = executor.planned_gpus(search.setup)
    finally:
        worker.close()
    timed, advice = {}, []
    for stage in search.stages:
        one, pace = seconds[stage.name], paces[stage.name]
        each = one.of_candidate(pace)
        besides = (1 + (compared if stage is search.stages[0] else 0)) * (one.merge + one.asking)
        asked = one.examples if pace is None else (pace.cost(pace.size) or 0) / pace.size
        timed[stage.name] = {
            "seconds_per_merge": round(one.merge, 4),
            "seconds_per_example": round(one.of_example, 6),
            "seconds_per_candidate": round(each, 4),
            "gpu_hours_per_candidate": each * gpus / workers / 3600,
            **totals(stage.budget, besides, each, workers, gpus, asked),
        }
        advice += merge_advice(stage, one)
    elsewhere = gpus and not torch.cuda.is_available()
    facts = {
        **({"timed_on": "a CPU, while the workers have GPUs"} if elsewhere else {}),
        "seconds_to_open_a_worker": round(opened, 3),
        "workers": workers,
        **({"timed_stages": timed} if loaded.file.stages else timed[""]),
    }
    return facts, advice


def _timed(worker: Worker, stage: Stage) -> Timed:
    """What one worker takes for a candidate of typical size."""
    recipe = stage.space.decode(stage.space.representative())
    jobs = [Job(number, recipe, "search") for number in range(worker.engine.at_once)]
    # scorers may load their data at the first call, and the first merge takes many times as long as
    # others: it reads the sources and compiles kernels
    if worker.setup.fitness.scorers or stage.racing is not None:
        worker.evaluate_all(jobs)
    evaluation = worker.evaluate_all(jobs)[0]
    if evaluation.status == "failed":
        of = f" of stage {stage.name}" if stage.name else ""
        raise CandidateError(f"the timed candidate{of} failed: {evaluation.error}")
    return Timed(evaluation.merge_seconds, evaluation.score_seconds, evaluation.examples)


def merge_advice(stage: Stage, timed: Timed) -> list[str]:
    """What to do where workers would spend more time on merging than on asking."""
    racing = stage.racing
    if racing is None or timed.merge <= racing.first * timed.of_example:
        return []
    wanted = math.ceil(timed.merge / timed.of_example) if timed.of_example else timed.examples
    above = f"stage {stage.name}: " if stage.name else ""
    cure = (
        f"racing.first {wanted} makes both cost the same"
        if wanted * 2 <= timed.examples
        else f"of {timed.examples} examples racing saves little time then: set racing: false"
    )
    return [
        f"{above}a merge takes as long as {wanted:,} examples, and racing asks {racing.first} "
        f"after it: {cure}."
    ]


def totals(
    budget: Budget,
    besides: float,
    seconds: float,
    workers: int,
    gpus: float,
    examples: float,
) -> dict[str, Any]:
    """Candidates, seconds and GPU hours after which a budget is spent.

    Args:
        besides: seconds of one worker for what is evaluated on top of the budget.
        seconds: that one worker takes for one candidate.
        gpus: of all workers together.
        examples: that a candidate is asked on average.

    Returns:
        Nothing where a budget of tokens cannot be counted in candidates.

    Raises:
        ConfigError: the budget is in GPU hours, and there is no GPU.
    """
    budget.require_gpus(gpus)
    ends = [] if budget.evaluations is None else [budget.evaluations]
    ends += [int(budget.examples / examples)] if budget.examples and examples else []
    limits = [] if budget.seconds is None else [budget.seconds]
    limits += [] if budget.gpu_hours is None else [budget.gpu_hours * 3600 / gpus]
    ends += [max(0, math.floor((limit * workers - besides) / seconds)) for limit in limits]
    if not ends:
        return {}
    spent = (min(ends) * seconds + besides) / workers
    return {
        "candidates_for_the_budget": min(ends),
        "seconds_for_the_budget": round(spent, 1),
        "gpu_hours_for_the_budget": spent * gpus / 3600,
    }
