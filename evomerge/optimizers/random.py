"""Uniform draws: what every other optimizer has to beat."""

from __future__ import annotations

import numpy as np

from evomerge.optimizers import Optimizer
from evomerge.optimizers._draw import draw
from evomerge.types import Evaluation, Genome


class Random(Optimizer):
    """Draws every gene uniformly on its parameter's scale, and learns nothing.

    Candidate ``number`` depends on the seed and ``number`` alone, not on what was asked before.
    """

    def ask(self, number: int) -> Genome:
        """A draw from the candidate's own generator; never None."""
        rng = np.random.default_rng([self.seed, number])
        return Genome({parameter.name: draw(parameter, rng) for parameter in self.parameters})

    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Nothing to learn."""
