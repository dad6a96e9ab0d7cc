"""What an operator says about itself, and the decorator with which it says so."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from evomerge.errors import ConfigError
from evomerge.operators._bound import Bound
from evomerge.operators._modifiers import PER_SOURCE, SHARED
from evomerge.plugins import registry

if TYPE_CHECKING:
    from evomerge.kernels.stack import Merged

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
On = Literal["weights", "task_vectors", "either", "pair"]


@dataclass(frozen=True, slots=True)
class Operator:
    """A merge operator and what a planner must know of it.

    Attributes:
        function: takes a `Stack` and the parameters, gives the merged values.
        on: what the stack holds: ``weights`` of the sources; their ``task_vectors`` (source minus
            base; the result is added to the base); ``either``, as the parameter ``space`` says; or
            a ``pair`` of weights: of two sources, or of the base and one source.
        per_source: parameters of which the function receives M values.
        paper_defaults: settings to use when nothing is known, as published.
        paper: where it is from.
        sources: how many sources it takes; None for any number.
        random: whether it draws random numbers.
        statistics: what each source must have recorded: ``fisher``, ``grams``, ...; or None.
        ordered: whether the order of the sources matters.
        experimental: whether its published equations could not be checked.
        shared: defaults of the parameters that all sources share.
        options: every YAML key, per-source ones first, with the types of the shared ones.
    """

    name: str
    function: Callable[..., Merged]
    on: On
    per_source: Mapping[str, Bound]
    paper_defaults: Mapping[str, Any]
    paper: str
    sources: int | None
    random: bool
    statistics: str | None
    ordered: bool
    experimental: bool
    shared: Mapping[str, Any]
    options: type[BaseModel]

    @property
    def parameters(self) -> tuple[str, ...]:
        """Every YAML key, per-source ones first."""
        return (*self.per_source, *self.shared)

    def validate_shared(self, settings: Mapping[str, Any], *path: str) -> dict[str, Any]:
        """The parameters that all sources share, defaults filled in.

        Args:
            path: of the settings, for messages.

        Raises:
            ConfigError: unknown keys and values outside their domain, all at once.
        """
        given = {key: value for key, value in settings.items() if key not in self.per_source}
        try:
            valid = self.options.model_validate(given)
        except ValidationError as error:
            raise ConfigError(registry.explain(error, self.options, *path)) from None
        return {key: getattr(valid, key) for key in self.shared}


def operator(
    *,
    on: On,
    per_source: Mapping[str, Bound] | None = None,
    paper_defaults: Mapping[str, Any] | None = None,
    paper: str,
    sources: int | None = None,
    random: bool = False,
    statistics: str | None = None,
    ordered: bool = False,
    experimental: bool = False,
) -> Callable[[Callable[..., Merged]], Operator]:
    """Make the decorated function the operator of its file; arguments as in `Operator`."""

    def wrap(function: Callable[..., Merged]) -> Operator:
        own = dict(per_source or {}) | dict(PER_SOURCE if on == "task_vectors" else {})
        signature = inspect.signature(function, eval_str=True)
        shared = [
            p
            for p in signature.parameters.values()
            if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name not in own
        ]
        if on == "task_vectors":
            shared += SHARED
        # per-source keys are there to be suggested: `Bound.problem` checks their values
        fields: dict[str, Any] = {key: (Any, bound.default) for key, bound in own.items()}
        fields |= {
            p.name: (p.annotation, ... if p.default is p.empty else p.default) for p in shared
        }
        name = function.__name__
        return Operator(
            name=name,
            function=function,
            on=on,
            per_source=own,
            paper_defaults=dict(paper_defaults or {}),
            paper=paper,
            sources=2 if on == "pair" else sources,
            random=random,
            statistics=statistics,
            ordered=ordered or on == "pair",
            experimental=experimental,
            shared={p.name: p.default for p in shared},
            options=create_model(
                f"{name}_options",
                __config__=ConfigDict(extra="forbid", allow_inf_nan=False),
                **fields,
            ),
        )

    return wrap


def get(name: str) -> Operator:
    """The operator called ``name``.

    Raises:
        ConfigError: there is none; the message suggests the nearest.
    """
    found = getattr(registry.module("operators", name), name)
    if not isinstance(found, Operator):
        raise TypeError(f"evomerge/operators/{name}.py must define an @operator called {name}")
    return found
