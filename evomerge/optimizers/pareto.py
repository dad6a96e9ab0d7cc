"""One CMA-ES for all objectives together, then one more for each of them: the corners of a front.

``T`` is the number of objectives, ``P`` the population.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
from pydantic import Field

from evomerge.errors import ConfigError, Problem
from evomerge.optimizers import Optimizer
from evomerge.optimizers.cmaes import Cmaes
from evomerge.types import Aim, Evaluation, Genome, Parameter

_MOST_CORNERS = 4
_KEPT, _LEAST = 0.8, 0.08  # of the spread where a corner begins, and how much at least


class Pareto(Optimizer):
    """Searches for the best fitness first, then from there towards each objective in turn.

    Until a share of the budget is spent it is `cmaes`, which ranks by the fitness. From then on
    that search takes turns, P candidates each, with one for every objective, which begins at the
    mean that was found. These rank by weighted sums of the objectives, in which their own has the
    weight ``corners``. An objective counts in units of its range over what was found by then, so
    that scores and counts of layers can be added up. Of more than four objectives, the four get a
    search whose range is widest, relative to the largest number in it.

    The candidates on the front come from all of these, and from the baselines. What one CMA-ES for
    the fitness alone has scored makes a front as large or larger: see `experiments/front`.

    Args:
        first: the share of the budget for the fitness alone, in [0, 1].
        corners: the weight of a corner's own objective, in (1/T, 1]; the others share the rest.
        population_size, sigma, correlation: of each search, see `cmaes`.

    Raises:
        ConfigError: as `cmaes`; fewer than two objectives; corners that weigh all alike.
    """

    takes_start = True
    divides_budget = True

    def __init__(
        self,
        parameters: Sequence[Parameter],
        seed: int,
        *,
        first: Annotated[float, Field(ge=0, le=1)] = 0.4,
        corners: Annotated[float, Field(gt=0, le=1)] = 0.7,
        population_size: Annotated[int, Field(ge=4, le=100_000)] = 12,
        sigma: Annotated[float, Field(ge=1e-6, le=1)] = 0.12,
        correlation: Annotated[float, Field(ge=0, le=0.99)] = 0.5,
    ) -> None:
        super().__init__(parameters, seed)
        self._first, self._corners, self._sigma = first, corners, sigma
        self._keys = {"population_size": population_size, "correlation": correlation}
        whole = Cmaes(self.parameters, seed, sigma=sigma, **self._keys)  # type: ignore[arg-type]
        self._population = population_size
        self._searches = [_Search(whole, {})]
        self._turn = self._asked = 0  # whose, and how many it has asked for in this one
        self._owners: dict[int, _Search] = {}  # by candidate, of those without a result
        self._found: list[Evaluation] = []  # until the corners begin

    def aim(self, aim: Aim) -> None:
        """See `Optimizer.aim`."""
        T = len(aim.objectives)
        if T < 2:
            text = "pareto weighs two objectives or more, and the fitness has one task."
            raise ConfigError(Problem(("name",), text, "Take optimizer: cmaes."))
        if self._corners * T <= 1:
            text = f"{self._corners} of {T} objectives is no more than the others have."
            raise ConfigError(Problem(("corners",), text, f"Set more than {1 / T:.2f}."))
        super().aim(aim)

    def ask(self, number: int) -> Genome | None:
        """The next of the search whose turn it is; None while that awaits results."""
        if self._asked == self._population:
            if len(self._searches) == 1 and self._begins_corners():
                if self._owners:
                    return None
                self._begin_corners()
            self._next_turn()
        return self._entered(number, self._searches[self._turn].optimizer.ask(number))

    def ask_ahead(self, number: int) -> Genome | None:
        """See `Cmaes.ask_ahead`; None once the first part of the budget is spent, to end it."""
        if len(self._searches) == 1 and self._begins_corners():
            return None
        return self._entered(number, self._searches[self._turn].optimizer.ask_ahead(number))

    def _entered(self, number: int, genome: Genome | None) -> Genome | None:
        if genome is not None:
            self._owners[number] = self._searches[self._turn]
            self._asked += 1
        return genome

    def _begins_corners(self) -> bool:
        return self.spent >= self._first or self._searches[0].optimizer.has_converged

    def _next_turn(self) -> None:
        """Let the next search ask that has not converged, or the next one if all have."""
        count = len(self._searches)
        turns = [(self._turn + step) % count for step in range(1, count + 1)]
        going = [turn for turn in turns if not self._searches[turn].optimizer.has_converged]
        self._turn, self._asked = (going or turns)[0], 0

    def _begin_corners(self) -> None:
        """A search for each objective, from the mean of the first one."""
        whole = self._searches[0].optimizer
        mean = whole.recommend()
        genes = {} if mean is None else mean.genes
        initial = [replace(p, initial=genes.get(p.name, p.initial)) for p in self.parameters]
        spread = self._sigma if whole.spread is None else whole.spread
        sigma = max(_KEPT * spread, _LEAST)
        extents = self._extents()
        for index, corner in enumerate(self._widest(extents)):
            weights = {
                name: (self._corners if name == corner else self._rest()) / (extents[name] or 1.0)
                for name in self.objectives
            }
            seed = int(np.random.default_rng([self.seed, index + 1]).integers(2**32))
            search = Cmaes(initial, seed, sigma=sigma, **self._keys)  # type: ignore[arg-type]
            self._searches.append(_Search(search, weights))
        self._found.clear()

    def _rest(self) -> float:
        """The weight of each objective in the corner of another."""
        return (1 - self._corners) / (len(self.objectives) - 1)

    def _extents(self) -> dict[str, float]:
        """By objective, how far apart the found candidates are on it."""
        extents = {}
        for name in self.objectives:
            values = [one.objectives[name] for one in self._found]
            extents[name] = max(values) - min(values) if values else 0.0
        return extents

    def _widest(self, extents: Mapping[str, float]) -> list[str]:
        """The objectives that get a search of their own, in their order."""

        def relative(name: str) -> float:
            largest = max((abs(one.objectives[name]) for one in self._found), default=0.0)
            return extents[name] / (largest or 1.0)

        widest = sorted(self.objectives, key=relative, reverse=True)[:_MOST_CORNERS]
        return [name for name in self.objectives if name in widest]

    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Take in a result, as the search that asked for it ranks it."""
        search = self._owners.pop(number)
        if len(self._searches) == 1 and evaluation.objectives:
            self._found.append(evaluation)
        search.optimizer.tell(number, search.weighed(evaluation))

    @property
    def spread(self) -> float | None:
        """See `Optimizer.spread`: of the search for the best fitness."""
        return self._searches[0].optimizer.spread

    @property
    def has_converged(self) -> bool:
        """See `Optimizer.has_converged`: all searches have."""
        going = any(not search.optimizer.has_converged for search in self._searches)
        return len(self._searches) > 1 and not going

    def recommend(self) -> Genome | None:
        """See `Cmaes.recommend`: of the search for the best fitness."""
        return self._searches[0].optimizer.recommend()


@dataclass(frozen=True, slots=True)
class _Search:
    """One of the searches; without weights it ranks by the fitness."""

    optimizer: Cmaes
    weights: Mapping[str, float] = field(default_factory=dict)

    def weighed(self, evaluation: Evaluation) -> Evaluation:
        if not (self.weights and evaluation.objectives):
            return evaluation
        gains = evaluation.objectives
        value = math.fsum(weight * gains[name] for name, weight in self.weights.items())
        return replace(evaluation, value=value)
