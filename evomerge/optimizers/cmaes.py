"""Evolution strategies of the ``cmaes`` library: a normal distribution that learns its shape.

``D`` is the number of parameters left to vary, ``P`` the population. Genes are points of the unit
cube, on their parameter's scale. The library minimises: it gets ranks, the best first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from evomerge.errors import ConfigError
from evomerge.optimizers import Optimizer
from evomerge.optimizers._distributions import Distribution, Floats, Mix, Start
from evomerge.optimizers._unit_cube import all_values, decode
from evomerge.types import Evaluation, Gene, Genome, Parameter, Proposal

_CONVERGED = 0.01  # of the cube: what is left to gain is less than a score's noise


class Cmaes(Optimizer):
    """CMA-ES: the library's `CMA` for up to 200 floats, `SepCMA` for more, `CatCMAwM` for a mix.

    A generation is P candidates: after the last of them `ask` returns None until all P have
    results. The distribution then moves by their ranking alone (value, then number); failed
    candidates come last. A generation that failed or tied as a whole moves nothing.

    It has converged when its floats stray, on average, less than 0.01 of their ranges (a tenth of
    ``sigma``, if that is less) and all else has settled; where nothing is a float, never.

    Where workers would wait for stragglers, `ask_ahead` gives up to P more draws from the present
    distribution. A generation is then the first P results since the last move, whichever
    distribution they were drawn from: no result is dropped, and nothing waits. A point from an
    earlier distribution is injected: its step from the mean is shortened to a length that the
    present distribution's own steps could well have. Slow candidates come late, so that the
    quick ones shape the next draws; without `ask_ahead` nothing depends on time.

    Args:
        population_size: P, at least 4; by default max(24, 2 * (4 + floor(3 ln D))), twice the
            library's or more, because the fitness is noisy: with 24 or 36 for 18 genes a search
            found equally good merges.
        sigma: how far the first generation strays from where it starts: the standard deviation in
            the unit cube. The default is what was measured together with that population; 1/6
            did as well after 10,000 examples. A bool or choice starts as its initial value mixed
            with ``min(1, 3 * sigma)`` of the uniform distribution.
        correlation: at first, of genes that set the same parameter of the same source in several
            places: they begin by moving together, and learn to part. 0.8 points better than 0
            after 10,000 and 16,000 examples of a search over 18 genes, the same after 40,000.
            Without effect on a bool or choice, and in `SepCMA`.

    Raises:
        ConfigError: every parameter has only one value.

    Source: Hansen 2016, arXiv:1604.00772 (CMA); Ros & Hansen 2008 (SepCMA); Hamano et al. 2025,
        arXiv:2504.07884 (CatCMAwM); Hansen 2011, arXiv:1110.4181 (points from outside).
    """

    takes_start = True
    learns_from = "ranks"

    def __init__(
        self,
        parameters: Sequence[Parameter],
        seed: int,
        *,
        population_size: Annotated[int, Field(ge=4, le=100_000)] | None = None,
        sigma: Annotated[float, Field(ge=1e-6, le=1)] = 0.12,
        correlation: Annotated[float, Field(ge=0, le=0.99)] = 0.5,
    ) -> None:
        super().__init__(parameters, seed)
        values = {parameter.name: all_values(parameter) for parameter in self.parameters}
        self._fixed = {name: some[0] for name, some in values.items() if len(some) == 1}
        self._free = free = [p for p in self.parameters if p.name not in self._fixed]
        if not free:
            raise ConfigError(
                "cmaes needs a parameter to vary, and every parameter of the space "
                "has only one value. Widen the bounds or choices of at least one."
            )
        usual = 4 + math.floor(3 * math.log(len(free)))
        self.population_size = population_size or max(24, 2 * usual)
        self.cohort_size = self.population_size
        library_seed = int(np.random.default_rng(seed).integers(2**32))  # it takes 32 bits
        self._start = Start(self.population_size, sigma, correlation, library_seed)
        self._points: dict[int, _Drawn] = {}  # by candidate, those not yet learnt from
        self._values: dict[int, tuple[float, ...]] = {}  # of this generation
        self._means: list[dict[str, Gene]] = []  # after each generation

    @cached_property
    def _distribution(self) -> Distribution:
        """The search distribution; made at first use: importing the library takes a second."""
        floats_only = all(parameter.kind == "float" for parameter in self._free)
        return (Floats if floats_only else Mix)(self._free, self._start)

    @property
    def algorithm(self) -> str:
        """Which of the library's strategies these parameters call for."""
        return type(self._distribution.strategy).__name__

    def ask(self, number: int) -> Genome | None:
        """A draw from the distribution, or None while P candidates await their results."""
        return self._draw(number) if len(self._points) < self.population_size else None

    def ask_ahead(self, number: int) -> Genome | None:
        """A draw from the distribution, or None while 2 P candidates await their results."""
        return self._draw(number) if len(self._points) < 2 * self.population_size else None

    def _draw(self, number: int) -> Genome:
        point, genes = self._distribution.draw()
        self._points[number] = _Drawn(point, self._distribution.strategy.generation)
        return self._genome(genes)

    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Take in a result; the P-th since the last move moves the distribution."""
        self._values[number] = evaluation.rank
        if len(self._values) < self.population_size:
            return
        drawn = {number: self._points.pop(number) for number in self._values}
        if len(set(self._values.values())) > 1:
            ranking = sorted(sorted(self._values), key=lambda n: self._values[n], reverse=True)
            self._distribution.learn([self._own(drawn[n]) for n in ranking])
        self._means.append(self._distribution.mean())
        self._values.clear()

    def _own(self, drawn: _Drawn) -> Any:
        """The point as if the present distribution had drawn it."""
        present = drawn.generation == self._distribution.strategy.generation
        return drawn.point if present else self._distribution.inject(drawn.point)

    @property
    def spread(self) -> float | None:
        """See `Optimizer.spread`: that of the floats, once all else has settled."""
        spread = self._distribution.spread()
        return spread if math.isfinite(spread) else None

    @property
    def has_converged(self) -> bool:
        """See `Optimizer.has_converged`."""
        return self.spread is not None and self.spread < min(_CONVERGED, self._start.sigma / 10)

    def recommend(self) -> Genome | None:
        """The mean, rounded for an int, and the most probable of a bool or choice."""
        if self._distribution.strategy.generation == 0:
            return None
        return self._genome(self._distribution.mean())

    def finalists(self) -> Sequence[Proposal]:
        """Averages of the means of late generations, the last mean, and the first.

        The means of a noisy search stray about the best point; their average strays less.

        Source: Polyak & Juditsky 1992, doi:10.1137/0330046.
        """
        last = self.recommend()
        if last is None:
            return ()
        half, quarter = len(self._means) // 2, 3 * len(self._means) // 4
        initial = Genome({parameter.name: parameter.initial for parameter in self.parameters})
        return (
            Proposal("average of the late means", self._average(self._means[half:])),
            Proposal("last mean", last),
            Proposal("average of the latest means", self._average(self._means[quarter:])),
            Proposal("start", initial),
        )

    def _average(self, means: Sequence[Mapping[str, Gene]]) -> Genome:
        """The mean of each number in the cube, and what a bool or choice was most often."""
        genes: dict[str, Gene] = {}
        for one in self._free:
            values = [genes_of[one.name] for genes_of in means]
            if one.kind in ("float", "int"):
                unit = math.fsum(one.to_unit(float(value)) for value in values) / len(values)
                genes |= decode([one], [unit])
            else:
                genes[one.name] = max(values, key=values.count)
        return self._genome(genes)

    def _genome(self, genes: Mapping[str, Gene]) -> Genome:
        known = {**self._fixed, **genes}
        return Genome({parameter.name: known[parameter.name] for parameter in self.parameters})


class _Drawn(NamedTuple):
    """A point in the library's form, and how often the distribution had moved before."""

    point: Any
    generation: int
