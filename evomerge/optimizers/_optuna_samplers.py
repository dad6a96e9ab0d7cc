"""Optuna's samplers: found by name, made of the options of a YAML, and tried before a search."""

from __future__ import annotations

import inspect
import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from evomerge.errors import ConfigError, Problem, shown
from evomerge.faults import memory_ran_out
from evomerge.plugins.registry import did_you_mean

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
_MULTI_OBJECTIVE = ("TPESampler", "NSGAIISampler", "NSGAIIISampler", "GPSampler")
MOST = 100_000  # of whatever an option counts
_OPTIONS = "sampler_options"
_FEW = {"n_startup_trials": 4, "population_size": 4, "popsize": 4}  # when a sampler is tried
_CANDIDATES, _SECONDS = 12, 0.5  # at most, once it has learned, when a sampler is tried


@dataclass(frozen=True, slots=True)
class SamplerMaker:
    """A class of ``optuna.samplers``, with what a search gives to it whatever the options.

    Attributes:
        kind: the class.
        given: its arguments that are no options, such as ``seed`` and ``x0``, if it takes them.
        space: the search space.
        objectives: how many there are; 0 for the fitness alone.
    """

    kind: type[optuna.samplers.BaseSampler]
    given: Mapping[str, Any]
    space: Mapping[str, optuna.distributions.BaseDistribution]
    objectives: int = 0

    def make(self, options: Mapping[str, Any]) -> optuna.samplers.BaseSampler:
        """A sampler, once one like it has asked and learned from made-up results.

        Raises:
            ConfigError: options that it does not take, or with which it fails, all of them.
        """
        name, known = self.kind.__name__, inspect.signature(self.kind).parameters
        problems = [
            Problem((_OPTIONS, key), f"{name} has no such option.", did_you_mean(key, known))
            for key in options
            if key not in known
        ]
        if "seed" in options:
            problems.append(Problem((_OPTIONS, "seed"), "set the seed of the search instead."))
        problems += [
            Problem((_OPTIONS, key), f"expected at most {MOST}, got {shown(value)}.")
            for key, value in options.items()
            if isinstance(value, int) and value > MOST and key in known and key != "seed"
        ]
        if not problems and self._failure(options) is not None:
            problems = self._wrong(options)
        if problems:
            raise ConfigError(problems)
        return self._new(options)

    def _new(self, options: Mapping[str, Any]) -> optuna.samplers.BaseSampler:
        known = inspect.signature(self.kind).parameters
        given = {key: value for key, value in self.given.items() if key in known}
        return self.kind(**{**given, **options})

    def _wrong(self, options: Mapping[str, Any]) -> list[Problem]:
        """The options that fail together with those that do not: some need one another."""
        usable: dict[str, Any] = {}
        wrong = dict.fromkeys(options, "")
        known = len(wrong) + 1
        while len(wrong) < known:
            known = len(wrong)
            for key in list(wrong):
                failure = self._failure({**usable, key: options[key]})
                if failure is None:
                    usable[key] = options[key]
                    del wrong[key]
                else:
                    wrong[key] = failure
        name = self.kind.__name__
        if self.objectives and replace(self, objectives=0)._failure(options) is None:
            text = f"{name} takes one objective, and the fitness names {self.objectives}."
            cure = f"Take {', '.join(_MULTI_OBJECTIVE)}, or the optimizer pareto."
            return [Problem(("sampler",), text, cure)]
        if not options:
            return [Problem(("sampler",), f"{name} fails on this machine: {self._failure({})}.")]
        return [
            Problem((_OPTIONS, key), f"{name} cannot use {shown(options[key])}: {failure}.")
            for key, failure in wrong.items()
        ]

    def _failure(self, options: Mapping[str, Any]) -> str | None:
        """Why such a sampler fails by the time that it has learned from a generation, or None.

        Many options are read only then. Startup and generations are cut short; time ends a trial
        only after them, so that what is accepted does not depend on it. Memory that runs out says
        nothing of the options, and is raised.
        """
        import optuna

        known = inspect.signature(self.kind).parameters
        counts = {key: options.get(key, few) for key, few in _FEW.items() if key in known}
        few = {key: min(n, _FEW[key]) for key, n in counts.items() if isinstance(n, int)}
        learned = sum(few.values()) + 2  # candidates: one fails, and one is asked for afterwards
        end = time.monotonic() + _SECONDS
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a run has them, too
                self._new(options)
                T = self.objectives or 1
                sampler = self._new({**options, **few})
                study = optuna.create_study(directions=["minimize"] * T, sampler=sampler)
                for number in range(_CANDIDATES):
                    trial = study.ask(dict(self.space))
                    failed = number == 1
                    state = optuna.trial.TrialState.FAIL if failed else None
                    values = [math.sin(number + objective) for objective in range(T)]
                    study.tell(trial, None if failed else values, state=state)
                    if number + 1 >= learned and time.monotonic() > end:
                        break
        except Exception as error:
            if memory_ran_out(error):
                raise
            return f"{type(error).__name__}: {error}".rstrip(".")
        return None


def find(name: str) -> type[optuna.samplers.BaseSampler]:
    """The sampler class of that name, if a search can use it.

    Raises:
        ConfigError: it cannot, or there is none.
    """
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


@contextmanager
def quietly() -> Iterator[None]:
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
