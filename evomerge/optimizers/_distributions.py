"""Distributions of the ``cmaes`` library, in terms of genes: see `evomerge.optimizers.cmaes`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from evomerge.optimizers._unit_cube import (
    all_values,
    clip_step,
    decode,
    initial_odds,
    initial_units,
)
from evomerge.types import Gene, Parameter

# Beyond, a diagonal covariance finds the better genome from equal evaluations (measured at
# D = 256), and faster: 5 ms a generation against 600 ms at D = 512.
MOST_DIMENSIONS_OF_A_FULL_COVARIANCE = 200


@dataclass(frozen=True, slots=True)
class Start:
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


def _spread(sigma: float, covariance: Any) -> float:
    """See `Distribution.spread`.

    Args:
        covariance: (D, D), or (D,) its diagonal.
    """
    diagonal = covariance if covariance.ndim == 1 else np.diag(covariance)
    return float(sigma * np.exp(np.log(diagonal).mean() / 2))


class Distribution(ABC):
    """The library's distribution, in terms of genes; a point is its form of a candidate."""

    strategy: Any

    @abstractmethod
    def draw(self) -> tuple[Any, dict[str, Gene]]: ...

    @abstractmethod
    def inject(self, point: Any) -> Any:
        """A point of an earlier distribution, as `learn` takes it."""

    @abstractmethod
    def mean(self) -> dict[str, Gene]: ...

    @abstractmethod
    def spread(self) -> float:
        """Geometric mean of the standard deviations of the floats, in the cube.

        Not of the largest: a gene that does not matter strays as before when all others have
        settled. Infinite where there are no floats, and while integers are not settled.
        """

    def learn(self, points: Sequence[Any]) -> None:
        """Move by the P points of a generation, best first."""
        # Ranks also scale CatCMAwM's penalty on points outside the cube, which with raw values
        # is undefined (the median of nothing) while half of a generation ties.
        self.strategy.tell([(point, float(rank)) for rank, point in enumerate(points)])


class Floats(Distribution):
    """A normal distribution in the unit cube: `CMA`, or `SepCMA` where D is large."""

    def __init__(self, parameters: Sequence[Parameter], start: Start) -> None:
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

    def spread(self) -> float:
        return _spread(self.strategy._sigma, self.strategy._C)


class Mix(Distribution):
    """A normal distribution with margin beside a categorical one: `CatCMAwM`."""

    def __init__(self, parameters: Sequence[Parameter], start: Start) -> None:
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
        return point, self.genes(point)

    def genes(self, point: Any) -> dict[str, Gene]:
        """What a point of the library's stands for."""
        units = [unit for part in (point.x, point.z) if part is not None for unit in part]
        return self._genes(units, point.c)

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

    def spread(self) -> float:
        if not self.strategy.n_continuous or not self._settled():
            return math.inf
        floats = np.diag(self.strategy._C)[: self.strategy.n_continuous]
        return _spread(self.strategy._sigma, floats)

    def _settled(self) -> bool:
        """Whether integers change as rarely as the library lets them.

        Choices are not asked: the odds of one that does not matter wander for ever, and those of
        one that does settle once the floats have.
        """
        one = self.strategy
        if not one.n_integer:
            return True
        rarest = 1 - 0.73 ** (1 / (one.n_integer + one.n_categorical))  # its margin
        return all(change <= 1.05 * rarest for change in one._pmut)

    def _genes(self, units: Sequence[float], odds: Any) -> dict[str, Gene]:
        """Genes of a point or of the mean; ``odds`` has one row per category, 1 for its choice."""
        genes = decode(self.numbers, units)
        for row, (name, options) in enumerate(self.categories.items()):
            genes[name] = options[int(np.argmax(odds[row]))]
        return genes


def of_front(kernels: Sequence[Mix], seed: int) -> Any:
    """The library's `COMOCatCMAwM`, which moves these by what each adds to a front of two."""
    import cmaes

    for kernel in kernels:
        kernel.strategy.tell = partial(_tell_ranks, kernel.strategy.tell)
    first = kernels[0].strategy
    return cmaes.COMOCatCMAwM(
        # of each only how many there are: the kernels have their own
        x_space=[[0.0, 1.0]] * first.n_continuous or None,
        z_space=[[0.0, 1.0]] * first.n_integer or None,
        c_space=[2] * first.n_categorical or None,
        kernels=[kernel.strategy for kernel in kernels],
        seed=seed,
    )


def _tell_ranks(tell: Callable[[Any], None], points: Sequence[tuple[Any, float]]) -> None:
    """Move a kernel by the ranks of its points, as `Distribution.learn` does; not where all tie."""
    if len({value for _, value in points}) > 1:
        ranking = sorted(points, key=lambda pair: pair[1])
        tell([(point, float(rank)) for rank, (point, _) in enumerate(ranking)])
