"""Any of Optuna's samplers, by its name in ``optuna.samplers``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge.errors import SearchError
from evomerge.keys import Plain
from evomerge.optimizers import Optimizer
from evomerge.optimizers._optuna_samplers import SamplerMaker, find, quietly
from evomerge.types import Evaluation, Gene, Genome, Parameter

if TYPE_CHECKING:
    import optuna


class Optuna(Optimizer):
    """Asks an in-memory Optuna study, which never makes a candidate wait.

    The first candidate is the initial value of every parameter. `CmaEsSampler` cannot learn from
    it and starts its mean there instead; prefer the optimizer ``cmaes``.

    Args:
        sampler: a class of ``optuna.samplers``, e.g. ``TPESampler``, ``GPSampler``.
        sampler_options: its keyword arguments; ``seed`` comes from the search.

    Raises:
        ConfigError: no such sampler, or options that it does not take or with which it fails.

    Source: Akiba et al. 2019, arXiv:1907.10902.
    """

    cohort_size = 24

    def __init__(
        self,
        parameters: Sequence[Parameter],
        seed: int,
        *,
        sampler: str = "TPESampler",
        sampler_options: Plain | None = None,
    ) -> None:
        import optuna

        super().__init__(parameters, seed)
        self._name = sampler
        self._distributions = {p.name: _distribution(p) for p in self.parameters}
        self._trials: dict[int, optuna.Trial] = {}  # in flight, by candidate
        given: dict[str, Any] = {"seed": int(np.random.default_rng(seed).integers(2**31))}
        numbers = [p for p in self.parameters if p.kind in ("float", "int")]
        given["x0"] = {p.name: _gene(p, p.initial) for p in numbers}
        with quietly():
            made = SamplerMaker(find(sampler), given, self._distributions).make(
                sampler_options or {}
            )
            self._study = optuna.create_study(direction="maximize", sampler=made)
            self._study.enqueue_trial({p.name: _gene(p, p.initial) for p in self.parameters})

    def ask(self, number: int) -> Genome:
        """The sampler's next suggestion; never None."""
        with quietly(), self._named_errors():
            trial = self._study.ask(self._distributions)
        self._trials[number] = trial
        return Genome({p.name: _gene(p, trial.params[p.name]) for p in self.parameters})

    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Finish the candidate's trial, as failed where it has no value."""
        from optuna.trial import TrialState

        trial, value = self._trials.pop(number), evaluation.value
        with quietly(), self._named_errors():
            if evaluation.status == "failed" or value is None or math.isnan(value):
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                self._study.tell(trial, value)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Name the sampler where it fails: some options are wrong only once there are trials."""
        try:
            yield
        except Exception as error:
            text = f"optimizer: Optuna's {self._name} cannot go on: {error!r}."
            raise SearchError(f"{text} See its sampler_options.") from error


def _distribution(parameter: Parameter) -> optuna.distributions.BaseDistribution:
    """The parameter in Optuna's terms."""
    from optuna import distributions

    log = parameter.scale == "log"
    match parameter.kind:
        case "float":
            return distributions.FloatDistribution(parameter.low, parameter.high, log=log)
        case "int":
            low, high = math.ceil(parameter.low), math.floor(parameter.high)
            return distributions.IntDistribution(low, high, log=log)
        case "bool":
            return distributions.CategoricalDistribution((False, True))
        case "choice":
            return distributions.CategoricalDistribution(parameter.choices)


def _gene(parameter: Parameter, value: Any) -> Gene:
    """The value as plain Python, a number exactly within its bounds."""
    match parameter.kind:
        case "float":
            return min(max(float(value), parameter.low), parameter.high)
        case "int":
            return min(max(int(value), math.ceil(parameter.low)), math.floor(parameter.high))
        case "bool":
            return bool(value)
        case "choice":
            return str(value)
