"""Evolution strategies of the ``cmaes`` library: a normal distribution that learns its shape.

``D`` is the number of parameters left to vary, ``P`` the population. Genes are points of the unit
cube, on their parameter's scale. The library minimises: it gets ranks, the best first.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from evomerge.errors import ConfigError
from evomerge.optimizers import Optimizer
from evomerge.optimizers._unit_cube import (
    all_values,
    clip_step,
    decode,
    initial_odds,
    initial_units,
)
from evomerge.types import Evaluation, Gene, Genome, Parameter, Proposal

# Beyond, a diagonal covariance finds the better genome from equal evaluations (measured at
# D = 256), and faster: 5 ms a generation against 600 ms at D = 512.
MOST_DIMENSIONS_OF_A_FULL_COVARIANCE = 200


class Cmaes(Optimizer):
    """CMA-ES: the library's `CMA` for up to 200 floats, `SepCMA` for more, `CatCMAwM` for a mix.

    A generation is P candidates: after the last of them `ask` returns None until all P have
    results. The distribution then moves by their ranking alone (value, then number); failed
    candidates come last. A generation that failed or tied as a whole moves nothing.

    Where workers would wait for stragglers, `ask_ahead` gives up to P more draws from the present
    distribution. A generation is then the first P results since the last move, whichever
    distribution they were drawn from: no result is dropped, and nothing waits. A point from an
    earlier distribution is injected: its step from the mean is shortened to a length that the
    present distribution's own steps could well have. Slow candidates come late, so that the
    quick ones shape the next draws; without `ask_ahead` nothing depends on time.

    Args:
        population_size: P, at least 4; by default 3 * (4 + floor(3 ln D)), three times the
            library's, because the fitness is noisy.
        sigma: how far the first generation strays from the initial values: the standard deviation
            in the unit cube. A bool or choice starts as its initial value mixed with
            ``min(1, 3 * sigma)`` of the uniform distribution.
        correlation: at first, of genes that set the same parameter of the same source in several
            places: they begin by moving together. Without effect in `SepCMA`.

    Raises:
        ConfigError: every parameter has only one value.

    Source: Hansen 2016, arXiv:1604.00772 (CMA); Ros & Hansen 2008 (SepCMA); Hamano et al. 2025,
        arXiv:2504.07884 (CatCMAwM); Hansen 2011, arXiv:1110.4181 (points from outside).
    """

    takes_start = True

    def __init__(
        self,
        parameters: Sequence[Parameter],
        seed: int,
        *,
        population_size: Annotated[int, Field(ge=4, le=100_000)] | None = None,
        sigma: Annotated[float, Field(ge=1e-6, le=1)] = 1 / 6,
        correlation: Annotated[float, Field(ge=0, le=0.99)] = 0.0,
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
        self.population_size = population_size or 3 * (4 + math.floor(3 * math.log(len(free))))
        self.cohort_size = self.population_size
        library_seed = int(np.random.default_rng(seed).integers(2**32))  # it takes 32 bits
        self._start = _Start(self.population_size, sigma, correlation, library_seed)
        self._points: dict[int, _Drawn] = {}  # by candidate, those not yet learnt from
        self._values: dict[int, tuple[float, ...]] = {}  # of this generation
        self._means: list[dict[str, Gene]] = []  # after each generation

    @cached_property
    def _distribution(self) -> _Distribution:
        """The search distribution; made at first use: importing the library takes a second."""
        floats_only = all(parameter.kind == "float" for parameter in self._free)
        return (_Floats if floats_only else _Mix)(self._free, self._start)

    @property
    def algorithm(self) -> str:
        """Which of the library's strategies these parameters call for."""
        return type(self._distribution.strategy).__name__

    def begin_at(self, genome: Genome) -> None:
        """See `Optimizer.begin_at`."""
        known = genome.genes
        self.parameters = tuple(replace(p, initial=known[p.name]) for p in self.parameters)
        self._free = [replace(p, initial=known[p.name]) for p in self._free]

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
        self._values[number] = evaluation.standing or (_fitness(evaluation),)
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


@dataclass(frozen=True, slots=True)
class _Start:
    """P, the first standard deviation and correlation, and the seed of the library's generator."""

    population_size: int
    sigma: float
    correlation: float
    seed: int


def _first_covariance(parameters: Sequence[Parameter], correlation: float) -> Any:
    """(D, D) 1 on the diagonal, the correlation between parameters of one group."""
    groups = [parameter.group or parameter.name for parameter in parameters]
    covariance = np.eye(len(groups))
    for row, one in enumerate(groups):
        for column, other in enumerate(groups):
            if row != column and one == other:
                covariance[row, column] = correlation
    return covariance


class _Drawn(NamedTuple):
    """A point in the library's form, and how often the distribution had moved before."""

    point: Any
    generation: int


class _Distribution(ABC):
    """The library's distribution, in terms of genes; a point is its form of a candidate."""

    strategy: Any

    @abstractmethod
    def draw(self) -> tuple[Any, dict[str, Gene]]: ...

    @abstractmethod
    def inject(self, point: Any) -> Any:
        """A point of an earlier distribution, as `learn` takes it."""

    @abstractmethod
    def mean(self) -> dict[str, Gene]: ...

    def learn(self, points: Sequence[Any]) -> None:
        """Move by the P points of a generation, best first."""
        # Ranks also scale CatCMAwM's penalty on points outside the cube, which with raw values
        # is undefined (the median of nothing) while half of a generation ties.
        self.strategy.tell([(point, float(rank)) for rank, point in enumerate(points)])


class _Floats(_Distribution):
    """A normal distribution in the unit cube: `CMA`, or `SepCMA` where D is large."""

    def __init__(self, parameters: Sequence[Parameter], start: _Start) -> None:
        import cmaes

        self.parameters = parameters
        D = len(parameters)
        full = D <= MOST_DIMENSIONS_OF_A_FULL_COVARIANCE
        first = {"cov": _first_covariance(parameters, start.correlation)} if full else {}
        self.strategy = (cmaes.CMA if full else cmaes.SepCMA)(
            **first,
            mean=initial_units(parameters),
            sigma=start.sigma,
            bounds=np.tile([0.0, 1.0], (D, 1)),
            # Clip a point outside the cube at once. Drawing it again, by default up to 100 times,
            # keeps the mean off the walls: twice the error on a noisy sphere whose optimum lies
            # in a corner (D = 24), the same inside, and up to 20 times the time.
            n_max_resampling=0,
            seed=start.seed,
            population_size=start.population_size,
        )

    def draw(self) -> tuple[Any, dict[str, Gene]]:
        point = self.strategy.ask()
        return point, decode(self.parameters, point)

    def inject(self, point: Any) -> Any:
        mean = self.strategy.mean
        # The library has no public name for its step size and covariance.
        return mean + clip_step(point - mean, self.strategy._sigma, self.strategy._C)

    def mean(self) -> dict[str, Gene]:
        return decode(self.parameters, self.strategy.mean)


class _Mix(_Distribution):
    """A normal distribution with margin beside a categorical one: `CatCMAwM`."""

    def __init__(self, parameters: Sequence[Parameter], start: _Start) -> None:
        import cmaes

        levels = {parameter.name: all_values(parameter) for parameter in parameters}
        continua = [p for p in parameters if not levels[p.name]]
        # The library asks for binary variables as categories.
        integers = [p for p in parameters if p.kind == "int" and len(levels[p.name]) > 2]
        self.numbers = [*continua, *integers]
        self.categories = {
            p.name: levels[p.name] for p in parameters if p not in continua and p not in integers
        }
        initial = [p.initial for p in parameters if p.name in self.categories]
        self.strategy = cmaes.CatCMAwM(
            x_space=[[0.0, 1.0] for _ in continua] or None,
            z_space=[[p.to_unit(float(v)) for v in levels[p.name]] for p in integers] or None,
            c_space=[len(options) for options in self.categories.values()] or None,
            population_size=start.population_size,
            mean=initial_units(self.numbers),
            sigma=start.sigma,
            # The default, the distance to the nearest bound, is singular at a bound.
            cov=_first_covariance(self.numbers, start.correlation),
            cat_param=initial_odds(list(self.categories.values()), initial, start.sigma),
            seed=start.seed,
        )

    def draw(self) -> tuple[Any, dict[str, Gene]]:
        point = self.strategy.ask()
        units = [unit for part in (point.x, point.z) if part is not None for unit in part]
        return point, self._genes(units, point.c)

    def inject(self, point: Any) -> Any:
        if not self.numbers:
            return point  # categories move by a bounded step whatever is drawn
        mean, margin = self.strategy._mean, self.strategy._A
        step = (point._v_raw - mean) / margin
        own = mean + margin * clip_step(step, self.strategy._sigma, self.strategy._C)
        return replace(point, _v_raw=own)

    def mean(self) -> dict[str, Gene]:
        # The library has no public name for its mean and its probabilities.
        units = self.strategy._mean if self.numbers else ()
        return self._genes(units, self.strategy._q if self.categories else None)

    def _genes(self, units: Sequence[float], odds: Any) -> dict[str, Gene]:
        """Genes of a point or of the mean; ``odds`` has one row per category, 1 for its choice."""
        genes = decode(self.numbers, units)
        for row, (name, options) in enumerate(self.categories.items()):
            genes[name] = options[int(np.argmax(odds[row]))]
        return genes


def _fitness(evaluation: Evaluation) -> float:
    """The value, below every value for a candidate that failed or scored NaN."""
    value = evaluation.value
    if evaluation.status == "failed" or value is None or math.isnan(value):
        return -math.inf
    return value
