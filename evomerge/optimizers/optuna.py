"""Any of Optuna's samplers, by its name in ``optuna.samplers``."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge.errors import ConfigError, Problem, SearchError, shown
from evomerge.keys import Plain
from evomerge.optimizers import Optimizer
from evomerge.plugins.registry import did_you_mean
from evomerge.types import Evaluation, Gene, Genome, Parameter

if TYPE_CHECKING:
    import optuna

# What a YAML cannot use, and why.
UNFIT = {
    "BaseSampler": "is abstract",
    "BaseGASampler": "is abstract",
    "PartialFixedSampler": "needs another sampler as an object",
    "GridSampler": "stops when its grid is used up, while a search goes on to its budget",
    "BruteForceSampler": "stops when it has tried everything, while a search goes on",
}


class Optuna(Optimizer):
    """Asks an in-memory Optuna study, which never makes a candidate wait.

    The first candidate is the initial value of every parameter. `CmaEsSampler` cannot learn from
    it and starts its mean there instead; prefer the optimizer ``cmaes``.

    Args:
        sampler: a class of ``optuna.samplers``, e.g. ``TPESampler``, ``GPSampler``.
        sampler_options: its keyword arguments; ``seed`` comes from the search.

    Raises:
        ConfigError: no such sampler, or options that it does not take.

    Source: Akiba et al. 2019, arXiv:1907.10902.
    """

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
        with _quietly():
            self._study = optuna.create_study(
                direction="maximize",
                sampler=self._sampler(sampler, sampler_options or {}),
            )
            self._study.enqueue_trial({p.name: _gene(p, p.initial) for p in self.parameters})

    def ask(self, number: int) -> Genome:
        """The sampler's next suggestion; never None."""
        with _quietly(), self._named_errors():
            trial = self._study.ask(self._distributions)
        self._trials[number] = trial
        return Genome({p.name: _gene(p, trial.params[p.name]) for p in self.parameters})

    def tell(self, number: int, evaluation: Evaluation) -> None:
        """Finish the candidate's trial, as failed where it has no value."""
        from optuna.trial import TrialState

        trial, value = self._trials.pop(number), evaluation.value
        with _quietly(), self._named_errors():
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

    def _sampler(self, name: str, options: dict[str, Any]) -> optuna.samplers.BaseSampler:
        """The sampler, seeded, and for CMA-ES started at the initial values."""
        make = _find(name)
        known = inspect.signature(make).parameters
        path, text = ("sampler_options",), f"{name} has no such option."
        problems = [
            Problem((*path, key), text, did_you_mean(key, known))
            for key in options
            if key not in known
        ]
        if "seed" in options:
            problems.append(Problem((*path, "seed"), "set the seed of the search instead."))
        if problems:
            raise ConfigError(problems)
        if "seed" in known:
            options = {"seed": int(np.random.default_rng(self.seed).integers(2**31)), **options}
        if "x0" in known:
            numbers = [p for p in self.parameters if p.kind in ("float", "int")]
            options = {"x0": {p.name: _gene(p, p.initial) for p in numbers}, **options}
        try:
            return make(**options)
        except (TypeError, ValueError) as error:
            text = f"{name} cannot be made of them: {error}"
            raise ConfigError(Problem(path, text)) from None


def _find(name: str) -> type[optuna.samplers.BaseSampler]:
    """The sampler class of that name, if a search can use it."""
    if name in UNFIT:
        text = f"{name} {UNFIT[name]}."
        raise ConfigError(Problem(("sampler",), text, "Choose another sampler."))
    from optuna import samplers

    known = [item for item in samplers.__all__ if item.endswith("Sampler")]
    fit = [item for item in known if item not in UNFIT]
    if name not in fit:
        text = f"optuna.samplers has no {shown(name)}."
        raise ConfigError(Problem(("sampler",), text, did_you_mean(name, fit)))
    found: type[optuna.samplers.BaseSampler] = getattr(samplers, name)
    return found


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


@contextmanager
def _quietly() -> Iterator[None]:
    """A context without Optuna's log, and without warnings that a search cannot act on."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            warnings.simplefilter("ignore", FutureWarning)  # x0: deprecated, with no successor
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
