"""Any of Optuna's samplers, by its name in ``optuna.samplers``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from evomerge.errors import SearchError
from evomerge.keys import Plain
from evomerge.optimizers import Optimizer
from evomerge.optimizers._optuna_samplers import SamplerMaker, find, quietly
from evomerge.types import Aim, Evaluation, Gene, Genome, Parameter

if TYPE_CHECKING:
    import optuna


_SHORTFALL = "shortfall"


class Optuna(Optimizer):
    """Asks an in-memory Optuna study, which never makes a candidate wait.

    The first candidate is the initial value of every parameter. `CmaEsSampler` cannot learn from
    it and starts its mean there instead; prefer the optimizer ``cmaes``.

    Where the search names several objectives, the study has these in place of the fitness:
    ``TPESampler`` (MOTPE), ``NSGAIISampler``, ``NSGAIIISampler`` and ``GPSampler`` search for their
    front. What a candidate lacks of its floors is the study's constraint.

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
        super().__init__(parameters, seed)
        self._name, self._options = sampler, dict(sampler_options or {})
        self._distributions = {p.name: _distribution(p) for p in self.parameters}
        self._trials: dict[int, optuna.Trial] = {}  # in flight, by candidate
        with quietly():
            self._study = self._new_study()

    def _new_study(self, *, floors: bool = False) -> optuna.Study:
        """A study of the objectives, or of the fitness, whose sampler was tried."""
        import optuna

        seed = int(np.random.default_rng(self.seed).integers(2**31))
        numbers = [p for p in self.parameters if p.kind in ("float", "int")]
        initial = {p.name: _gene(p, p.initial) for p in numbers}
        given = {"seed": seed, "x0": initial}
        if floors:
            given["constraints_func"] = _lacking
        maker = SamplerMaker(find(self._name), given, self._distributions, len(self.objectives))
        directions: list[Literal["maximize"]] = ["maximize"] * max(1, len(self.objectives))
        study = optuna.create_study(directions=directions, sampler=maker.make(self._options))
        study.enqueue_trial({p.name: _gene(p, p.initial) for p in self.parameters})
        return study

    def aim(self, aim: Aim) -> None:
        """See `Optimizer.aim`."""
        super().aim(aim if aim.several else Aim(()))
        if aim.several or aim.floors:
            with quietly():
                self._study = self._new_study(floors=aim.floors)

    def ask(self, number: int) -> Genome:
        """The sampler's next suggestion; never None."""
        with quietly(), self._named_errors():
            trial = self._study.ask(self._distributions)
        self._trials[number] = trial
        return Genome({p.name: _gene(p, trial.params[p.name]) for p in self.parameters})

    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Finish the candidate's trial, as failed where it has no value."""
        from optuna.trial import TrialState

        trial, values = self._trials.pop(number), self._values(evaluation)
        with quietly(), self._named_errors():
            if any(map(math.isnan, values)) or not values:
                self._study.tell(trial, state=TrialState.FAIL)
            else:
                trial.set_user_attr(_SHORTFALL, evaluation.shortfall)
                self._study.tell(trial, values)

    def _values(self, evaluation: Evaluation) -> list[float]:
        """What the study is told; nothing of a candidate that failed."""
        if evaluation.status == "failed":
            return []
        if self.objectives:
            gains = evaluation.objectives
            return [gains[name] for name in self.objectives if name in gains]
        return [] if evaluation.value is None else [evaluation.value]

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Name the sampler where it fails: some options are wrong only once there are trials."""
        try:
            yield
        except Exception as error:
            text = f"optimizer: Optuna's {self._name} cannot go on: {error!r}."
            raise SearchError(f"{text} See its sampler_options.") from error


def _lacking(trial: optuna.trial.FrozenTrial) -> tuple[float]:
    """What a candidate lacks of its floors; Optuna takes what is above 0 as infeasible."""
    return (trial.user_attrs.get(_SHORTFALL, 0.0),)


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
