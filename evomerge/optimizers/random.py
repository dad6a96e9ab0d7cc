"""Uniform draws: what every other optimizer has to beat."""

from __future__ import annotations

import math

import numpy as np

from evomerge.optimizers import Optimizer
from evomerge.types import Evaluation, Gene, Genome, Parameter


class Random(Optimizer):
    """Draws every gene uniformly on its parameter's scale, and learns nothing.

    Candidate ``number`` depends on the seed and ``number`` alone, not on what was asked before.
    """

    cohort_size = 24

    def ask(self, number: int) -> Genome:
        """A draw from the candidate's own generator; never None."""
        rng = np.random.default_rng([self.seed, number])
        return Genome({parameter.name: draw(parameter, rng) for parameter in self.parameters})

    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Nothing to learn."""


def draw(parameter: Parameter, rng: np.random.Generator) -> Gene:
    """One gene, each value as likely as any other on its parameter's scale."""
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
