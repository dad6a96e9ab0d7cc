"""What an operator's file declares, and the decorator with which it does so."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ValidationError, create_model

from evomerge.errors import ConfigError
from evomerge.keys import Keys
from evomerge.operators._modifiers import PER_SOURCE, SHARED, Bound
from evomerge.plugins import registry

if TYPE_CHECKING:
    from evomerge.kernels.stack import Merged

On = Literal["weights", "task_vectors", "either", "pair"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a file declares of its operator, besides name and parameters.

    Attributes:
        on: what the stack holds: ``weights`` of the sources; their ``task_vectors`` (source minus
            base; the result is added to the base); ``either``, as the parameter ``space`` says; or
            a ``pair`` of weights: of two sources, or of the base and one source.
        paper: where the operator is from.
        paper_defaults: settings to use when nothing is known, as published.
        per_source: the parameters of which every source has its own value.
        factor: the one of these that multiplies weights: 0 for all sources gives zeros, and not
            their mean.
        weights: the parameter that says how much of each source is taken, or of a pair how much of
            the second; ``weight`` where there is one.
        scale: the parameter that multiplies what is taken of all; ``lam`` where there is one.
        averages: whether only the ratios of the weights count; None where its parameter
            ``normalize`` says so.
        sources: how many sources it takes; None for any number.
        random: whether it draws random numbers.
        statistics: what each source must have recorded: ``fisher``, ``grams``, ...; or None.
        ordered: whether the order of the sources matters.
        experimental: whether its published equations could not be checked.
    """

    on: On
    paper: str
    paper_defaults: Mapping[str, Any] = field(default_factory=dict)
    per_source: Mapping[str, Bound] = field(default_factory=dict)
    factor: str | None = None
    weights: str | None = None
    scale: str | None = None
    averages: bool | None = None
    sources: int | None = None
    random: bool = False
    statistics: str | None = None
    ordered: bool = False
    experimental: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator(Traits):
    """A merge operator and what a planner must know of it.

    Attributes:
        function: takes a `Stack` and the parameters, (M,) values of each per-source one, and gives
            the merged values.
        shared: the other parameters and their defaults.
        options: every YAML key, per-source ones first, with the types of the shared ones.
    """

    name: str
    function: Callable[..., Merged]
    shared: Mapping[str, Any]
    options: type[BaseModel]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Every YAML key, per-source ones first."""
        return (*self.per_source, *self.shared)

    def takes_average(self, settings: Mapping[str, Any]) -> bool:
        """Whether only the ratios of the weights count, at these settings."""
        if self.averages is not None:
            return self.averages
        return bool(settings.get("normalize", self.shared.get("normalize", False)))

    def validate_shared(self, settings: Mapping[str, Any], *path: str) -> dict[str, Any]:
        """The parameters that all sources share, defaults filled in.

        Args:
            settings: values by YAML key; those of per-source keys are left out.
            path: of the settings, for messages.

        Raises:
            ConfigError: unknown keys and values outside their domain, all at once.
        """
        shared = {key: value for key, value in settings.items() if key not in self.per_source}
        try:
            valid = self.options.model_validate(shared)
        except ValidationError as error:
            raise ConfigError(registry.explain(error, self.options, *path)) from None
        return {key: getattr(valid, key) for key in self.shared}


class operator(Traits):  # noqa: N801 - a decorator
    """``@operator(on=..., paper=...)`` makes a function the operator of its file."""

    def __call__(self, function: Callable[..., Merged]) -> Operator:
        """The operator; those on task vectors have the parameters of all modifiers, too."""
        modified = self.on == "task_vectors"
        own = {**self.per_source, **(PER_SOURCE if modified else {})}
        shared = [
            p
            for p in inspect.signature(function, eval_str=True).parameters.values()
            if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name not in own
        ]
        shared += SHARED if modified else ()
        # per-source keys are there to be suggested: `Bound.problem` checks their values
        keys: dict[str, Any] = {key: (Any, bound.default) for key, bound in own.items()}
        keys |= {p.name: (p.annotation, ... if p.default is p.empty else p.default) for p in shared}
        traits = {trait.name: getattr(self, trait.name) for trait in fields(self)}
        traits["weights"] = self.weights or ("weight" if "weight" in own else None)
        traits["scale"] = self.scale or ("lam" if "lam" in keys.keys() - own.keys() else None)
        if self.on == "pair":
            traits |= {"sources": 2, "ordered": True}
        return Operator(
            **(traits | {"per_source": own}),
            name=function.__name__,
            function=function,
            shared={p.name: p.default for p in shared},
            options=create_model(f"{function.__name__}_options", __base__=Keys, **keys),
        )


def get(name: str) -> Operator:
    """The operator called ``name``.

    Raises:
        ConfigError: there is none; the message suggests the nearest.
    """
    declared = getattr(registry.module("operators", name), name)
    if not isinstance(declared, Operator):
        raise TypeError(f"evomerge/operators/{name}.py must define an @operator called {name}")
    return declared
