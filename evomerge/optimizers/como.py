"""COMO-CatCMA with margin, of the ``cmaes`` library: a front of two objectives, in any genes.

``P`` is the population, ``K`` the number of kernels. The library minimises.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from evomerge.errors import ConfigError, Problem
from evomerge.optimizers import Optimizer
from evomerge.optimizers._distributions import Mix, Start, of_front
from evomerge.optimizers._unit_cube import all_values, decode, initial_units
from evomerge.types import Aim, Evaluation, Genome, Parameter


class Como(Optimizer):
    """K distributions, each of which learns to fill the gap that the means of the others leave.

    The first begins at the initial values, the others at draws about them. In turn each proposes P
    candidates, is moved by the hypervolume that these add to the means of the others, and proposes
    its mean. `ask` returns None until all that were proposed have results. A candidate that failed
    counts as the worst of all on both objectives; one that misses a floor as worse than that.

    Args:
        kernels: K.
        population_size: P, by default 4 + floor(3 ln D) for D parameters left to vary.
        sigma, correlation: of each distribution at first, see `cmaes`.

    Raises:
        ConfigError: every parameter has only one value; not two objectives, which is all that the
            library's hypervolume takes.

    Source: Hamano et al. 2025, arXiv:2504.07884 (CatCMAwM); Toure et al. 2019,
        doi:10.1145/3321707.3321852 (COMO-CMA-ES).
    """

    takes_start = True

    def __init__(
        self,
        parameters: Sequence[Parameter],
        seed: int,
        *,
        kernels: Annotated[int, Field(ge=2, le=100)] = 5,
        population_size: Annotated[int, Field(ge=4, le=10_000)] | None = None,
        sigma: Annotated[float, Field(ge=1e-6, le=1)] = 0.12,
        correlation: Annotated[float, Field(ge=0, le=0.99)] = 0.5,
    ) -> None:
        super().__init__(parameters, seed)
        values = {parameter.name: all_values(parameter) for parameter in self.parameters}
        self._fixed = {name: some[0] for name, some in values.items() if len(some) == 1}
        self._free = [p for p in self.parameters if p.name not in self._fixed]
        if not self._free:
            raise ConfigError(
                "como needs a parameter to vary, and every parameter of the space "
                "has only one value. Widen the bounds or choices of at least one."
            )
        size = population_size or 4 + math.floor(3 * math.log(len(self._free)))
        self._kernels, self._start = kernels, Start(size, sigma, correlation, seed)
        self._points: dict[int, Any] = {}  # by candidate, those that wait for the others
        self._told: dict[int, Evaluation] = {}
        self._worst: Any = None  # (2,) told so far, the largest
        self._best: Any = None

    def aim(self, aim: Aim) -> None:
        """See `Optimizer.aim`."""
        if len(aim.objectives) != 2:
            names = ", ".join(aim.objectives)
            text = f"como searches for a front of two objectives, and the fitness has {names}."
            raise ConfigError(Problem(("name",), text, "Take optimizer: pareto."))
        super().aim(aim)

    @cached_property
    def _mixes(self) -> list[Mix]:
        """(K,) The distributions; the first begins at the initial values."""
        rng = np.random.default_rng(self.seed)
        numbers = [p for p in self._free if p.kind in ("float", "int")]
        mixes = []
        for kernel in range(self._kernels):
            units = initial_units(numbers)
            if kernel:
                units = np.clip(units + self._start.sigma * rng.standard_normal(len(units)), 0, 1)
            initial = decode(numbers, units)
            begun = [replace(p, initial=initial.get(p.name, p.initial)) for p in self._free]
            seed = int(rng.integers(2**32))
            mixes.append(Mix(begun, replace(self._start, seed=seed)))
        return mixes

    @cached_property
    def _strategy(self) -> Any:
        """The library's optimizer; made at first use: importing it takes a second."""
        return of_front(self._mixes, int(np.random.default_rng(self.seed).integers(2**32)))

    def ask(self, number: int) -> Genome | None:
        """The next point; None while those before it await their results."""
        if not self._strategy.ask_queue_size:
            return None
        point = self._points[number] = self._strategy.ask()
        known = {**self._fixed, **self._mixes[0].genes(point)}
        return Genome({parameter.name: known[parameter.name] for parameter in self.parameters})

    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Take in a result; the last of those that were proposed moves a distribution."""
        self._told[number] = evaluation
        if self._strategy.ask_queue_size or len(self._told) < len(self._points):
            return
        scored = {
            n: -np.array([one.objectives[name] for name in self.objectives])
            for n, one in sorted(self._told.items())
            if one.objectives
        }
        for loss in scored.values():
            self._worst = loss if self._worst is None else np.maximum(self._worst, loss)
            self._best = loss if self._best is None else np.minimum(self._best, loss)
        told = [(self._points[n], self._loss(n, scored)) for n in sorted(self._told)]
        self._points.clear()
        self._told.clear()
        self._strategy.tell(told)

    def _loss(self, number: int, scored: dict[int, Any]) -> Any:
        """(2,) What the library is told of a candidate."""
        if self._worst is None:
            return np.zeros(2)  # nothing was ever scored
        shortfall = self._told[number].shortfall
        if number in scored and not shortfall:
            return scored[number]
        return self._worst + shortfall * (self._worst - self._best)
