"""How often an optimizer learns within its budget, and what to change where that is too seldom."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from evomerge.optimizers import Optimizer
from evomerge.scoring import Fitness, shares
from evomerge.scoring.tasks import example_counts
from evomerge.search.budget import Asked, Budget
from evomerge.search.finalists import most_finalists
from evomerge.search.racing.deck import deeper, rung_sizes
from evomerge.search.racing.settings import Racing
from evomerge.search.spec import Stage
from evomerge.search.starts import first_starts

ENOUGH = 8  # cohorts or generations; below, an optimizer has hardly left its start
_FEWEST = 8  # candidates of a cohort or generation that are still worth learning from
_UNKNOWN = 10**9  # examples of a task, more than anybody asks


class Pace:
    """What a stage asks before its optimizer learns once.

    Args:
        stage: which asks.
        optimizer: of the stage.
        size: from how many candidates at once it learns.
        fitness: has the examples.

    Attributes:
        word: what these candidates are called.
        examples: that there are on search; None where only scorers know.
    """

    def __init__(self, stage: Stage, optimizer: Optimizer, size: int, fitness: Fitness) -> None:
        self.size, self._stage, self._optimizer = size, stage, optimizer
        self.word = "generation" if stage.racing is None else "cohort"
        known = example_counts(fitness)["search"]
        self.examples = None if fitness.scorers else sum(known.values())
        there = {task: known.get(task, _UNKNOWN) for task in fitness.tasks}
        parts = shares(fitness, {})
        deep = [] if stage.racing is None else deeper(stage.racing, parts, there)
        self._races = {racing: rung_sizes(racing, parts, there) for racing in deep}
        self._sized = optimizer.learns_from == "ranks"  # its population is a key of its own
        # in some order: sources are not ranked yet
        tries = optimizer.takes_start and stage.informed
        self._points = stage.space.starts(stage.sources) if tries else []

    def cost(self, size: int, racing: Racing | None = None, *, ties: bool = False) -> int | None:
        """How many examples so many candidates are asked; None where only scorers know.

        Args:
            racing: their rungs, if they have rungs of their own.
        """
        racing = racing or self._stage.racing
        if racing is not None:
            return racing.of_cohort(size, self._races[racing], ties=ties)
        return None if self.examples is None else size * self.examples

    def starts(self, budget: Budget) -> tuple[int, int | None]:
        """How many points are tried before the first generation, and on how many examples."""

        def most(size: int, racing: Racing | None) -> Asked:
            # without a figure a budget of examples does not count them either
            return Asked(size, self.cost(size, racing, ties=True) or 0)

        tried = first_starts(self._stage.given, self._points, budget, most, tuple(self._races))
        return (0, 0) if tried is None else (tried.size, self.cost(tried.size, tried.racing))

    def times(self, budget: Budget, size: int) -> int | None:
        """How often an optimizer of so many candidates learns; None where time alone says."""
        (tried, of_starts), limits = self.starts(budget), []
        if budget.evaluations is not None:
            limits.append(max(0, budget.evaluations - tried) // size)
        mean, most = self.cost(size), self.cost(size, ties=True)
        if budget.examples is not None and mean is not None and most is not None:
            raced = self._stage.racing is not None
            estimates = most_finalists(self._optimizer, budget.examples) if raced else 0
            besides = (of_starts or 0) + estimates * (self.examples or 0)
            room = budget.examples - besides - most
            limits.append(0 if room < 0 else 1 + room // mean)
        return min(limits, default=None)

    def merges(self) -> float:
        """How often a candidate is merged on average, if every rung does it anew."""
        racing, active, total = self._stage.racing, self.size, self.size
        for _ in range(1, 1 if racing is None else racing.rungs):
            assert racing is not None
            active = min(active, max(2, math.ceil(active * racing.keep)))
            total += active
        return total / self.size

    def facts(self) -> dict[str, Any]:
        """What `evomerge check` says of it."""
        budget, of = self._stage.budget, self.word
        times, (tried, of_starts) = self.times(budget, self.size), self.starts(budget)
        cost = self.cost(self.size)
        unknown = "as many as its scorers say"
        if self.examples is None:
            of_starts = None  # `starts` takes its scorers to have examples without end
        found = {
            f"candidates_a_{of}": self.size,
            f"examples_a_{of}": unknown if cost is None else cost,
            "examples_a_candidate": unknown if cost is None else round(cost / self.size),
            f"{of}s_for_the_budget": _unlimited(budget) if times is None else times,
        }
        starts = {"points": tried, "examples": unknown if of_starts is None else of_starts}
        return {
            "generations" if self._stage.racing is None else "racing": found,
            **({"starts": starts} if tried else {}),
        }

    def advice(self) -> list[str]:
        """What to do where the budget is too small for the optimizer to learn."""
        budget = self._stage.budget
        times = self.times(budget, self.size)
        if times is None or times >= ENOUGH:
            return []
        of = self.word if times == 1 else f"{self.word}s"
        few = f"{times} {of} for the budget, and in fewer than {ENOUGH} an optimizer hardly leaves "
        none = f"no {self.word} of {self.size} fits the budget, and the optimizer learns nothing"
        enough = [f"budget.{key} {least:,}" for key, least in self.least(ENOUGH).items()]
        cures = [f"{' and '.join(enough)} are enough"]
        fewer = _largest(lambda size: (self.times(budget, size) or 0) >= ENOUGH, self.size - 1)
        if fewer is not None and self._sized:
            cures.append(f"or optimizer.population_size {fewer}")
        above = f"stage {self._stage.name}: " if self._stage.name else ""
        return [
            f"{above}{f'{few}its start' if times else none}: {', '.join(cures)}. "
            f"Fewer genes than {len(self._stage.space.parameters)} are found sooner, too."
        ]

    def least(self, times: int) -> dict[str, int]:
        """The limits of the budget to how large they must be for an optimizer to learn so often.

        Those of which nobody knows what a cohort or generation takes are left out; what is enough
        is as it is.
        """
        limits = self._stage.budget.model_dump(include={"evaluations", "examples"})
        return {
            key: self._enough(key, limit, times)
            for key, limit in limits.items()
            if limit is not None and self.times(Budget(**{key: limit}), self.size) is not None
        }

    def _enough(self, key: str, limit: int, times: int) -> int:
        """The least of a limit with which the optimizer learns so often, others apart."""

        def suffices(limit: int) -> bool:
            return (self.times(Budget(**{key: limit}), self.size) or 0) >= times

        if suffices(limit):
            return limit
        low, high = limit, 2 * limit
        while not suffices(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if suffices(middle) else (middle, high)
        return high


def advice(paces: Iterable[Pace | None]) -> list[str]:
    """What to do in the stages of a search whose budget is too small for an optimizer to learn."""
    return [text for one in paces if one is not None for text in one.advice()]


def _unlimited(budget: Budget) -> str:
    """How often an optimizer learns where what a candidate takes of the budget is not known."""
    names = {"seconds": "time", "gpu_hours": "time", "tokens": "tokens", "examples": "examples"}
    limits = dict.fromkeys(name for key, name in names.items() if getattr(budget, key) is not None)
    return f"as many as the {' and '.join(limits)} {'allows' if [*limits] == ['time'] else 'allow'}"


def _largest(holds: Callable[[int], bool], most: int) -> int | None:
    """The largest size, `_FEWEST` or more, for which something holds that holds for small ones."""
    if most < _FEWEST or not holds(_FEWEST):
        return None
    low, high = _FEWEST, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def pace(stage: Stage, fitness: Fitness) -> Pace | None:
    """The `Pace` of a stage; None where its optimizer learns from one candidate at a time."""
    optimizer = stage.new_optimizer(stage.space.parameters)
    size = optimizer.cohort_size
    if size is None or (stage.racing is None and optimizer.learns_from == "values"):
        return None
    return Pace(stage, optimizer, size, fitness)
