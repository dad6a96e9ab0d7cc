"""One gene, each value as likely as any other on its parameter's scale."""

from __future__ import annotations

import math

import numpy as np

from evomerge.types import Gene, Parameter


def draw(parameter: Parameter, rng: np.random.Generator) -> Gene:
    """One value of the parameter."""
    if parameter.kind == "bool":
        return bool(rng.integers(2))
    if parameter.kind == "choice":
        return parameter.choices[rng.integers(len(parameter.choices))]
    if parameter.kind == "float":
        return parameter.from_unit(rng.random())
    low, high = math.ceil(parameter.low), math.floor(parameter.high)
    if parameter.scale == "linear":
        return int(rng.integers(low, high, endpoint=True))
    # Integer k owns [k - 1/2, k + 1/2], as long as that is on the logarithm.
    drawn = math.exp(rng.uniform(math.log(low - 0.5), math.log(high + 0.5)))
    return min(max(round(drawn), low), high)
