"""Genes as points of the unit cube, for evolution strategies to draw and move."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from evomerge.types import Gene, Parameter

# Past so many values an integer is searched as a continuum and rounded.
MOST_LEVELS = 256


def all_values(parameter: Parameter) -> Sequence[Gene]:
    """Every value of a parameter, in order; empty for a continuum."""
    match parameter.kind:
        case "bool":
            return (False, True)
        case "choice":
            return parameter.choices
        case "int":
            levels = range(math.ceil(parameter.low), math.floor(parameter.high) + 1)
            return levels if len(levels) <= MOST_LEVELS else ()
        case "float":
            return (float(parameter.low),) if parameter.low == parameter.high else ()


def initial_units(parameters: Sequence[Parameter]) -> Any:
    """(D,) the initial values in the unit cube; the library moves this array in place."""
    return np.array([p.to_unit(float(p.initial)) for p in parameters], dtype=float)


def initial_odds(
    options: Sequence[Sequence[Gene]], initial: Sequence[Gene], sigma: float
) -> Any | None:
    """(categories, most options) first probabilities, 0 past a row's end; None for no category."""
    if not options:
        return None
    odds = np.zeros((len(options), max(map(len, options))))
    uniform = min(1.0, 3 * sigma)  # 3 sigma = 1/2 reaches from the middle of the cube to its walls
    for row, (values, start) in enumerate(zip(options, initial, strict=True)):
        odds[row, : len(values)] = uniform / len(values)
        odds[row, values.index(start)] += 1 - uniform
    return odds


def decode(parameters: Sequence[Parameter], units: Sequence[float]) -> dict[str, Gene]:
    """Parameter name to value, from a point in the cube; outside it the nearest bound counts."""
    genes: dict[str, Gene] = {}
    for parameter, unit in zip(parameters, units, strict=True):
        value = parameter.from_unit(float(unit))
        if parameter.kind == "int":
            value = min(max(round(value), math.ceil(parameter.low)), math.floor(parameter.high))
        genes[parameter.name] = value
    return genes


def clip_step(step: Any, sigma: float, covariance: Any) -> Any:
    """A step from the mean, cut to a length that the distribution's own steps could well have.

    Args:
        step: (D,) point minus mean.
        sigma: the distribution's step size.
        covariance: (D, D), or (D,) where it is diagonal.

    Returns:
        (D,) in the same direction.

    Source: Hansen 2011, "Injecting external solutions into CMA-ES", arXiv:1110.4181, section 3: y
        is clipped at the Mahalanobis length sqrt(D) + 2D/(D+2).
    """
    y = step / sigma
    D = len(y)
    white = y / covariance if covariance.ndim == 1 else np.linalg.solve(covariance, y)
    length = math.sqrt(max(0.0, float(y @ white)))
    longest = math.sqrt(D) + 2 * D / (D + 2)
    return step if length <= longest else step * (longest / length)
