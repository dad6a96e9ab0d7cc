"""NSGA-II of pymoo as Mergenetic sets it up, in the place of one of evomerge's optimizers.

Real numbers between 0 and 1 drawn uniformly at first, pymoo's own crossover (SBX), mutation
(polynomial) and survival, duplicates left out: ``NSGA2(pop_size, eliminate_duplicates=True)`` in
its ``end2end_multiobjective.py``, with the bounds of its ``BaseMergingProblem``. Its YAMLs name
populations for demonstrations only; here it is 20, so that 320 evaluations are 16 generations. A
number between 0 and 1 is a place within the bounds of a gene, which it rounds where that is no
float. A candidate that failed counts as the worst.

Source: Minut et al. 2025, arXiv:2505.11427; Deb et al. 2002, doi:10.1109/4235.996017.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.evaluator import Evaluator
from pymoo.core.problem import Problem
from pymoo.core.termination import NoTermination
from pymoo.problems.static import StaticProblem

from evomerge.optimizers import Optimizer
from evomerge.types import Evaluation, Gene, Genome, Parameter

POPULATION = 20
_WORST = 1e9


class Nsga2(Optimizer):
    """Generations of `POPULATION`; the next is made when all of one have results."""

    def __init__(self, parameters: Sequence[Parameter], seed: int, names: Sequence[str]) -> None:
        super().__init__(parameters, seed)
        self._names = names
        self._problem = Problem(n_var=len(self.parameters), n_obj=len(names), xl=0.0, xu=1.0)
        self._algorithm = NSGA2(pop_size=POPULATION, eliminate_duplicates=True)
        self._algorithm.setup(self._problem, termination=NoTermination(), seed=seed)
        self._generation: Any = None
        self._left: list[int] = []  # places in the generation that were not asked for
        self._places: dict[int, int] = {}  # by candidate
        self._losses: dict[int, list[float]] = {}  # by place

    def ask(self, number: int) -> Genome | None:
        """The next of the generation; None while it awaits results."""
        if not self._left:
            if self._generation is not None and len(self._losses) < len(self._generation):
                return None
            self._next_generation()
        place = self._left.pop(0)
        self._places[number] = place
        units = self._generation[place].X
        pairs = zip(self.parameters, units, strict=True)
        return Genome({one.name: _gene(one, float(unit)) for one, unit in pairs})

    def _next_generation(self) -> None:
        if self._generation is not None:
            losses = np.array([self._losses[place] for place in range(len(self._generation))])
            Evaluator().eval(StaticProblem(self._problem, F=losses), self._generation)
            self._algorithm.tell(infills=self._generation)
        self._generation = self._algorithm.ask()
        self._left = list(range(len(self._generation)))
        self._losses = {}

    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Take in what pymoo minimizes."""
        gains = evaluation.objectives
        losses = [-gains[name] if name in gains else _WORST for name in self._names]
        self._losses[self._places.pop(number)] = losses


def _gene(parameter: Parameter, unit: float) -> Gene:
    """The value at a place between the bounds of a parameter."""
    if parameter.kind == "bool":
        return unit >= 0.5
    if parameter.kind == "choice":
        return parameter.choices[
            min(int(unit * len(parameter.choices)), len(parameter.choices) - 1)
        ]
    value = parameter.from_unit(unit)
    if parameter.kind == "float":
        return value
    return min(max(round(value), math.ceil(parameter.low)), math.floor(parameter.high))
